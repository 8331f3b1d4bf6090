"""In which batches splits are predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import SubsetRandomSampler

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Task
from mtl_core.mapped import ArrayWriter, MappedDataset
from mtl_core.model.reading import PathTraits, SplitReading
from mtl_core.modules.combine import Concat

N = 23


def dataset() -> DictDataset:
    rows = torch.arange(N)
    return DictDataset("d", "test", {"x": rows.float().unsqueeze(1), "other": rows}, {"t": rows % 3})


def traits(*layers: nn.Module, **kwargs: Any) -> PathTraits:
    operations = [Operation("m", [("_input_", "x")])]
    task = Task("t", {"m": nn.Sequential(*layers)}, operations, **kwargs)
    return PathTraits.of(MultitaskClassifier([task], device="cpu").eval(), ["t"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": 4, "shuffle": True},
        {"batch_size": 4, "shuffle": True, "drop_last": True},
        {"batch_size": 3, "sampler": SubsetRandomSampler([5, 2, 2, 9, 1, 22, 3])},
        {"batch_sampler": [[3], [1, 2, 4, 5, 6, 7, 8, 9], [0], [10]]},
        {"batch_size": 4, "collate_fn": torch.utils.data.default_collate},
    ],
)
@pytest.mark.parametrize("rows", [None, 1, 10, 1_000])
def test_a_split_is_read_in_its_loaders_order_whatever_the_batches(
    options: dict[str, Any], rows: int | None
) -> None:
    loader = DictDataLoader(dataset(), **options)
    torch.manual_seed(1)
    expected = [(X["x"], X["other"], Y["t"]) for X, Y in loader]
    torch.manual_seed(1)
    reading = SplitReading(loader, ["t"])
    reading.rows = rows
    read = [(X["x"], X["other"]) for X in reading]
    for i in range(2):
        assert torch.equal(torch.cat([X[i] for X in read]), torch.cat([batch[i] for batch in expected]))
    assert torch.equal(reading.golds("t"), torch.cat([batch[2] for batch in expected]))
    if rows == 1_000 and "collate_fn" not in options:
        assert len(read) == 1
    if rows is None:
        assert [len(x) for x, _ in read] == [len(x) for x, _, _ in expected]


def test_mapped_files_and_datasets_of_ones_own_make_large_batches_in_their_own_way(tmp_path: Path) -> None:
    class Negated(DictDataset):
        def batch(self, indices: Any) -> Any:
            X_dict, Y_dict = super().batch(indices)
            return {name: -values for name, values in X_dict.items()}, {"t": Y_dict["t"] + 1}

    data = dataset()
    for name, values in (("x", data.X_dict["x"]), ("t", data.Y_dict["t"])):
        dtype = str(values.dtype).removeprefix("torch.")
        with ArrayWriter(tmp_path / f"{name}.npy", dtype, values.shape[1:], N) as writer:
            writer.write(values.numpy())
    mapped = MappedDataset.open("d", "test", {"x": tmp_path / "x.npy"}, {"t": tmp_path / "t.npy"})
    negated = Negated("d", "test", {"x": data.X_dict["x"]}, data.Y_dict)
    for split, sign in ((mapped, 1), (negated, -1)):
        reading = SplitReading(DictDataLoader(split, batch_size=4), ["t"])
        reading.rows = 10
        batches = [X["x"] for X in reading]
        assert [len(x) for x in batches] == [12, 11]
        assert torch.equal(torch.cat(batches), sign * data.X_dict["x"])
        assert torch.equal(reading.golds("t"), data.Y_dict["t"] + (sign == -1))


def test_batches_that_nothing_writes_to_are_the_dataset_itself() -> None:
    data = dataset()
    for writes in (False, True):
        (X_dict,) = SplitReading(DictDataLoader(data, batch_size=N), ["t"], writes)
        assert (X_dict["x"].data_ptr() == data.X_dict["x"].data_ptr()) != writes


def test_rows_are_known_to_be_independent_on_paths_of_common_layers() -> None:
    assert traits(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.LayerNorm(4)).row_by_row
    hooked = nn.Linear(1, 4)
    hooked.register_forward_hook(lambda *_: None)

    class Own(nn.Linear):
        pass

    others = [
        [nn.BatchNorm1d(1, track_running_stats=False)],
        [nn.Softmax(dim=0)],
        [nn.LSTM(1, 2)],
        [nn.Embedding(3, 2, max_norm=1.0)],
        [Concat(dim=0)],
        [hooked],
        [Own(1, 4)],
    ]
    assert not any(traits(*layers).row_by_row for layers in others)
    assert not traits(nn.Linear(1, 4), output_func=lambda logits: logits.softmax(0)).row_by_row


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"sampler": list(range(N))}])
def test_batches_grow_while_a_split_is_read(options: dict[str, Any]) -> None:
    reading = SplitReading(DictDataLoader(dataset(), batch_size=4, **options), ["t"])
    sizes: list[int] = []
    for X_dict in reading:
        sizes.append(len(X_dict["x"]))
        reading.rows = 8
    assert sizes == [4, 8, 8, 3]
    assert len(reading.golds("t")) == N


def loader_of(*shape: int, **options: Any) -> DictDataLoader:
    return DictDataLoader(
        DictDataset("d", "test", {"x": torch.zeros(1, *shape)}, {"t": torch.zeros(1)}), **options
    )


def test_batches_are_smaller_the_more_each_row_takes() -> None:
    narrow, wide = traits(nn.Linear(8, 64)), traits(nn.Linear(8, 4_096))
    vector, sequence = loader_of(8), loader_of(50, 8)
    sizes = [one.rows_at_once(of) for one, of in ((narrow, vector), (narrow, sequence), (wide, sequence))]
    assert None not in sizes
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_for_unknown_modules_batches_are_a_few_of_the_loaders() -> None:
    unknown = traits(nn.Softmax(dim=0))
    sizes = {n: unknown.rows_at_once(loader_of(8, batch_size=n)) for n in (1, 32, 500, 1_000)}
    assert sizes == {1: 8, 32: 256, 500: 1_024, 1_000: None}
    image = loader_of(3, 512, 512, batch_size=2)
    assert unknown.rows_at_once(image) is None
    assert unknown.rows_at_once(loader_of(8, batch_sampler=[[0]])) is None
    hooked = nn.Linear(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert traits(hooked).rows_at_once(loader_of(8, batch_size=4)) is None


def test_modules_that_work_in_place_are_seen() -> None:
    assert traits(nn.ReLU(inplace=True)).writes
    assert not traits(nn.ReLU()).writes
