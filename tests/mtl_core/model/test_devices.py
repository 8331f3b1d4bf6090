from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task
from mtl_core.model.devices import ClassifierConfig, call, gpus_beside, to_device

from ..shapes import shape_task

FIRST_GPU = "cuda:0" if torch.cuda.is_available() else "cpu"


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.parametrize(
    ("given", "expected"),
    [(-1, "cpu"), (0, FIRST_GPU), ("cpu", "cpu"), ("cuda:3", "cuda:3"), (torch.device("meta"), "meta")],
)
def test_numbers_fall_back_to_the_cpu_and_names_are_taken_at_their_word(given: object, expected: str) -> None:
    assert ClassifierConfig(given).resolved() == torch.device(expected)  # type: ignore[arg-type]


def test_a_model_keeps_its_configuration_and_knows_where_it_is() -> None:
    model = MultitaskClassifier([shape_task("circle")], device=-1, dataparallel=False)
    assert model.config == ClassifierConfig(device=-1, dataparallel=False)
    assert model.device == torch.device("cpu")
    model.to("meta")
    assert model.device == torch.device("meta")
    model.add_task(shape_task("square"))
    assert model.module_pool["square_head"].weight.device == torch.device("meta")
    default = MultitaskClassifier([shape_task("circle")])
    assert default.config == ClassifierConfig(device=0, dataparallel=True)
    assert default.device == torch.device(FIRST_GPU)


def test_a_model_without_tensors_is_where_its_configuration_says() -> None:
    task = Task("t", {"m": nn.Identity()}, [Operation("m", [("_input_", "x")])])
    assert MultitaskClassifier([task], device="meta").device == torch.device("meta")


def test_tensors_move_wherever_they_are_nested() -> None:
    meta = torch.device("meta")
    x = torch.zeros(2)
    moved = to_device({"a": [x, "text"], "b": (x, {"c": x}), "d": Pair(x, x), "e": 3}, meta)
    assert {moved["a"][0].device, moved["b"][0].device, moved["b"][1]["c"].device} == {meta}
    assert (moved["a"][1], moved["e"]) == ("text", 3)
    assert isinstance(moved["d"], Pair)
    assert moved["d"].right.device == meta


def test_without_several_gpus_a_module_is_simply_called() -> None:
    assert gpus_beside(torch.device("cpu")) == []
    module, x = nn.Bilinear(2, 2, 3), torch.ones(4, 2)
    for gpus in ([], [0]):
        assert torch.equal(call(module, [x, x], gpus), module(x, x))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_several_gpus_compute_what_one_does_under_the_same_names() -> None:
    torch.manual_seed(1)
    trunk = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    model = MultitaskClassifier([shape_task("circle", trunk)])
    alone = MultitaskClassifier(
        [shape_task("circle", trunk, model.module_pool["circle_head"])], dataparallel=False
    )
    X_dict = {"circle_data": torch.randn(7, 2)}
    outputs = [of(X_dict, ["circle_task"])["circle_head"] for of in (model, alone)]
    torch.testing.assert_close(*outputs)
    assert outputs[0].device == model.device
    assert list(model.state_dict()) == list(alone.state_dict())
