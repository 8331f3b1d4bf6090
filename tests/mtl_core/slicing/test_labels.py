from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import DictDataLoader, DictDataset, TaskloomError
from mtl_core.slicing import SFApplier, add_slice_labels, slice_labels, slice_remap, slicing_function
from mtl_core.specs import TaskSpec

from ..shapes import shape_spec, shape_task

LABELS = np.array([0, 1, 1, -1, 1])


@slicing_function()
def low(x: float) -> bool:
    return x < 0.25


def loader_of(labels: torch.Tensor) -> DictDataLoader:
    return DictDataLoader(
        DictDataset("d", "train", {"x": torch.zeros(len(labels), 1)}, {"circle_task": labels})
    )


def test_labels_of_a_slice_say_who_is_in_it_and_what_the_base_label_is_there() -> None:
    made = slice_labels("t", LABELS, {"a": np.array([True, True, False, True, False])})
    assert {name: labels.tolist() for name, labels in made.items()} == {
        "t_slice:a_ind": [1, 1, 0, 1, 0],
        "t_slice:a_pred": [0, 1, -1, -1, -1],
        "t_slice:base_ind": [1, 1, 1, 1, 1],
        "t_slice:base_pred": [0, 1, 1, -1, 1],
    }
    assert LABELS.tolist() == [0, 1, 1, -1, 1]


def test_who_is_of_unknown_membership_trains_neither_indicator_nor_predictor() -> None:
    made = slice_labels("t", LABELS, {"a": np.array([1, -1, 0, 1, -1])})
    assert made["t_slice:a_ind"].tolist() == [1, -1, 0, 1, -1]
    assert made["t_slice:a_pred"].tolist() == [0, -1, -1, -1, -1]


def test_distributions_as_labels_are_masked_whole() -> None:
    soft = np.array([[0.2, 0.8], [0.5, 0.5]], dtype=np.float32)
    made = slice_labels("t", soft, {"a": np.array([False, True])})["t_slice:a_pred"]
    assert made.dtype == np.float32
    assert made.tolist() == [[-1, -1], [0.5, 0.5]]


@given(st.lists(st.tuples(st.integers(-1, 3), st.booleans(), st.sampled_from([-1, 0, 1]))))
def test_predictors_are_labelled_just_where_the_slice_and_the_base_label_are(
    examples: list[tuple[int, bool, int]],
) -> None:
    labels = np.array([label for label, _, _ in examples], dtype=np.int64)
    masks = {
        "a": np.array([inside for _, inside, _ in examples], dtype=bool),
        "b": np.array([inside for _, _, inside in examples], dtype=np.int64),
    }
    made = slice_labels("t", labels, masks, with_whole=True)
    assert len(made) == 8
    for name, mask in masks.items():
        assert np.array_equal(made[f"t_slice:{name}_ind"], mask)
        assert np.array_equal(made[f"t_slice:{name}_pred"], np.where(mask == 1, labels, -1))
        assert np.array_equal(made[f"t_slice:{name}"], made[f"t_slice:{name}_pred"])


def test_whole_slices_are_scored_along_the_base_tasks_path() -> None:
    slices = [{"name": name, "where": {"mask": "x"}} for name in ("a", "b")]
    specs = [
        TaskSpec.model_validate(shape_spec(slices=slices)),
        TaskSpec.model_validate(shape_spec("square")),
    ]
    remap = slice_remap(specs)
    assert remap == {"circle_task_slice:a": "circle_task", "circle_task_slice:b": "circle_task"}
    masks = {name: np.zeros(5, dtype=bool) for name in ("a", "b")}
    without = slice_labels("circle_task", LABELS, masks)
    whole = slice_labels("circle_task", LABELS, masks, with_whole=True)
    assert whole.keys() - without.keys() == remap.keys()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": np.zeros(4, dtype=bool)}, r"slice 'a' is given for \[4\] examples, and there are 5 labels"),
        ({"a": np.zeros((5, 1), dtype=bool)}, r"given for \[5, 1\] examples"),
        ({"a": np.array([0, 1, 2, 1, 1])}, "slice 'a' has the value 2"),
        ({"a": np.zeros(5), "a_pred": np.zeros(5)}, "rename that slice"),
    ],
)
def test_masks_that_are_none_are_refused(masks: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        slice_labels("t", LABELS, masks, with_whole=True)


def test_a_loader_gets_the_labels_of_all_slices_beside_its_own() -> None:
    loader = loader_of(torch.tensor([0, 1, 1, 0, 1]))
    memberships = SFApplier([low]).apply([0.1, 0.2, 0.3, 0.4, 0.5], progress_bar=False)
    add_slice_labels(loader, shape_task("circle"), memberships)
    assert {name: labels.tolist() for name, labels in loader.dataset.Y_dict.items()} == {
        "circle_task": [0, 1, 1, 0, 1],
        "circle_task_slice:low_ind": [1, 1, 0, 0, 0],
        "circle_task_slice:low_pred": [0, 1, -1, -1, -1],
        "circle_task_slice:base_ind": [1, 1, 1, 1, 1],
        "circle_task_slice:base_pred": [0, 1, 1, 0, 1],
    }
    _, Y_dict = next(iter(loader))
    assert len(Y_dict) == 5


def test_a_base_slice_of_the_users_own_is_taken_as_it_is() -> None:
    memberships = np.rec.fromarrays([np.array([1, 0])], names=["base"])
    loader = loader_of(torch.tensor([0, 1]))
    add_slice_labels(loader, shape_task("circle"), memberships)
    assert loader.dataset.Y_dict["circle_task_slice:base_ind"].tolist() == [1, 0]


def test_a_loader_without_the_tasks_labels_is_refused_and_a_plain_array() -> None:
    loader = loader_of(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels missing"):
        add_slice_labels(loader, shape_task("square"), np.rec.fromarrays([np.array([1, 0])], names=["a"]))
    with pytest.raises(TaskloomError, match="no named columns"):
        add_slice_labels(loader, shape_task("circle"), np.zeros((2, 1)))
