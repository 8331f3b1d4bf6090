from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task, TaskloomError
from mtl_core.model.output_dict import AmbiguousOutputError, OutputDict

from ..shapes import shape_task

BOTH = {"circle_data": torch.zeros(3, 2), "square_data": torch.ones(3, 2)}


def outputs_of(*task_names: str) -> OutputDict:
    model = MultitaskClassifier([shape_task("circle"), shape_task("square")], device="cpu")
    return model(BOTH, task_names)


def test_outputs_are_read_by_operation_and_fields_by_input() -> None:
    outputs = outputs_of("circle_task")
    assert list(outputs) == ["_input_", "base_mlp", "circle_head"]
    assert len(outputs) == 3
    assert outputs["circle_head"].shape == (3, 2)
    assert outputs["_input_"]["circle_data"] is BOTH["circle_data"]
    assert torch.equal(outputs["circle_task", "circle_head"], outputs["circle_head"])


def test_a_name_that_means_two_things_is_refused_and_its_pairs_stand_in() -> None:
    outputs = outputs_of("circle_task", "square_task")
    with pytest.raises(
        AmbiguousOutputError, match=r"'base_mlp' .* \['circle_task', 'square_task'\]"
    ) as caught:
        outputs["base_mlp"]
    assert isinstance(caught.value, TaskloomError)
    assert not torch.equal(outputs["circle_task", "base_mlp"], outputs["square_task", "base_mlp"])
    assert "base_mlp" not in outputs
    assert list(outputs) == [
        "_input_",
        ("circle_task", "base_mlp"),
        "circle_head",
        ("square_task", "base_mlp"),
        "square_head",
    ]
    assert all(key in outputs for key in outputs)
    assert outputs["square_head"] is outputs["square_task", "square_head"]


def test_a_name_that_two_tasks_share_for_one_computation_is_one_output() -> None:
    trunk = nn.Linear(2, 4)
    tasks = [
        Task(
            name,
            {"trunk": trunk, name: nn.Linear(4, 2)},
            [Operation("trunk", [("_input_", "x")]), Operation(name, ["trunk"])],
        )
        for name in ("a", "b")
    ]
    outputs = MultitaskClassifier(tasks, device="cpu")({"x": torch.zeros(1, 2)}, ["a", "b"])
    assert list(outputs) == ["_input_", "trunk", "a", "b"]
    assert outputs["a", "trunk"] is outputs["b", "trunk"] is outputs["trunk"]


@pytest.mark.parametrize("key", ["square_head", ("square_task", "square_head"), ("circle_task", "x"), "x", 3])
def test_what_was_not_computed_is_not_there(key: object) -> None:
    outputs = outputs_of("circle_task")
    assert key not in outputs
    with pytest.raises(KeyError):
        outputs[key]  # type: ignore[index]
