from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import RandomSampler, TensorDataset

from mtl_core import DictDataLoader, DictDataset, TaskloomError
from mtl_core.data import collate_dicts, is_labelled


def dataset(n: int = 10) -> DictDataset:
    return DictDataset(
        "d",
        "train",
        {"x": torch.arange(n * 3).reshape(n, 3).float(), "i": torch.arange(n)},
        {"t": torch.arange(n)},
    )


def assert_same(first: Any, second: Any) -> None:
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key])
            assert ours[key].dtype == theirs[key].dtype


@given(n=st.integers(1, 40), batch_size=st.integers(1, 12), drop_last=st.booleans(), shuffle=st.booleans())
def test_gathered_batches_are_those_that_collating_gives(
    n: int, batch_size: int, drop_last: bool, shuffle: bool
) -> None:
    options: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last}
    if shuffle:
        options["sampler"] = torch.randperm(n).tolist()
    gathered = list(DictDataLoader(dataset(n), **options))
    collated = list(DictDataLoader(dataset(n), collate_fn=partial(collate_dicts), **options))
    assert len(gathered) == len(collated) == len(DictDataLoader(dataset(n), **options))
    for ours, theirs in zip(gathered, collated, strict=True):
        assert_same(ours, theirs)


def test_a_shuffled_loader_gives_every_example_once_with_its_label() -> None:
    torch.manual_seed(1)
    batches = list(DictDataLoader(dataset(), batch_size=3, shuffle=True))
    labels = torch.cat([Y_dict["t"] for _, Y_dict in batches])
    assert sorted(labels.tolist()) == list(range(10))
    assert labels.tolist() != list(range(10))
    assert torch.equal(torch.cat([X_dict["i"] for X_dict, _ in batches]), labels)


def test_a_dataset_that_makes_its_own_examples_is_asked_for_them() -> None:
    class Doubled(DictDataset):
        def __getitem__(self, index: int) -> Any:
            X_dict, Y_dict = super().__getitem__(index)
            return {"x": X_dict["x"] * 2}, Y_dict

    data = Doubled("d", "train", {"x": torch.arange(4.0)}, {"t": torch.zeros(4)})
    (X_dict, _), *_ = DictDataLoader(data, batch_size=4)
    assert X_dict["x"].tolist() == [0, 2, 4, 6]


def test_a_dataset_that_makes_its_own_batches_too_is_asked_for_those() -> None:
    class Counted(DictDataset):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("examples are not asked for one by one")

        def batch(self, indices: Any) -> Any:
            return {"x": torch.as_tensor(indices)}, {}

    data = Counted("d", "train", {"x": torch.arange(4.0)}, {})
    assert [X_dict["x"].tolist() for X_dict, _ in DictDataLoader(data, batch_size=3)] == [[0, 1, 2], [3]]


@pytest.mark.parametrize("n", [1, 10, 70_000])
def test_shuffling_takes_the_order_of_torchs_own_sampler(n: int) -> None:
    data = DictDataset("d", "train", {"i": torch.arange(n)}, {})
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = list(RandomSampler(range(n)))
        torch.manual_seed(seed)
        batches = list(DictDataLoader(data, batch_size=1000, shuffle=True))
        assert torch.cat([X_dict["i"] for X_dict, _ in batches]).tolist() == expected
        torch.manual_seed(seed)
        list(RandomSampler(range(n)))
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        list(DictDataLoader(data, shuffle=True, batch_size=1000))
        assert torch.equal(torch.get_rng_state(), state)


def test_shuffling_and_a_sampler_exclude_each_other_and_a_generator_decides_the_order() -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        DictDataLoader(dataset(), shuffle=True, sampler=[1, 2])
    orders = [
        [
            X_dict["i"].item()
            for X_dict, _ in DictDataLoader(
                dataset(), shuffle=True, generator=torch.Generator().manual_seed(5)
            )
        ]
        for _ in range(2)
    ]
    assert orders[0] == orders[1]


def test_sequences_of_several_lengths_are_padded_and_other_values_stay_lists() -> None:
    data = DictDataset(
        "d",
        "train",
        {"tokens": [torch.tensor([1, 2, 3]), torch.tensor([4])], "weight": [1, 2.5], "text": ["a", "b"]},
        {"t": torch.tensor([0, 1])},
    )
    ((X_dict, Y_dict),) = DictDataLoader(data, batch_size=2)
    assert X_dict["tokens"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert X_dict["weight"].tolist() == [1, 2.5]
    assert X_dict["text"] == ["a", "b"]
    assert Y_dict["t"].tolist() == [0, 1]


def test_from_tensors_names_field_and_task() -> None:
    data = DictDataset.from_tensors(torch.zeros(3, 2), torch.ones(3), "valid")
    assert (data.name, data.split, list(data.X_dict), list(data.Y_dict)) == (
        "SnorkelDataset",
        "valid",
        ["input_data"],
        ["task"],
    )
    assert len(data) == 3


@pytest.mark.parametrize(
    ("X_dict", "Y_dict", "message"),
    [
        ({"x": torch.zeros(3)}, {"t": [0, 1, 1]}, "should be a torch.Tensor"),
        ({"x": torch.zeros(3)}, {"t": torch.zeros(2)}, "one length"),
        ({"x": torch.zeros(3), "y": [1]}, {}, "one length"),
        ({}, {"t": torch.zeros(2)}, "needs fields"),
    ],
)
def test_a_dataset_that_does_not_hold_together_is_refused(X_dict: Any, Y_dict: Any, message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        DictDataset("d", "train", X_dict, Y_dict)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([0, -1, 1]), [True, False, True]),
        (torch.tensor([0.5, -1.0, float("nan")]), [True, False, False]),
        (torch.tensor([[0, -1], [-1, -1]]), [True, False]),
    ],
)
def test_an_example_is_labelled_if_any_of_its_labels_is_given(
    labels: torch.Tensor, expected: list[bool]
) -> None:
    assert is_labelled(labels).tolist() == expected


def test_a_dataset_shows_its_name_fields_and_labels() -> None:
    class Other(DictDataset):
        pass

    assert repr(dataset()) == "DictDataset(name=d, X_keys=['x', 'i'], Y_keys=['t'])"
    assert repr(Other("e", "test", {"x": [1]}, {})) == "Other(name=e, X_keys=['x'], Y_keys=[])"


def test_a_dataset_without_labels_can_be_batched() -> None:
    data = DictDataset("d", "test", {"x": torch.arange(3)}, {})
    assert len(data) == 3
    assert [(X_dict["x"].tolist(), Y_dict) for X_dict, Y_dict in DictDataLoader(data, batch_size=2)] == [
        ([0, 1], {}),
        ([2], {}),
    ]


def test_labels_of_several_lengths_are_padded_with_no_label() -> None:
    examples = [({"x": torch.zeros(2)}, {"t": torch.tensor(labels)}) for labels in ([1, 0, 2], [1])]
    X_dict, Y_dict = collate_dicts(batch=examples)
    assert Y_dict["t"].tolist() == [[1, 0, 2], [1, -1, -1]]
    assert X_dict["x"].shape == (2, 2)


def test_only_a_dict_dataset_is_loaded() -> None:
    with pytest.raises(TaskloomError, match="loads a DictDataset, not a TensorDataset"):
        DictDataLoader(TensorDataset(torch.zeros(3)))  # type: ignore[arg-type]
