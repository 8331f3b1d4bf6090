from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, NonFiniteLossError, module_weights
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard, non_finite_gradients

from ..shapes import SHAPES, shape_task


def at(step: int) -> BatchPosition:
    return BatchPosition(("shapes",), epoch=step // 4, batch=step % 4, step=step)


def test_what_is_finite_passes() -> None:
    told: list[str] = []
    guard = FinitenessGuard("fail", 0, told.append)
    assert guard.passes("loss", {"a": 1e30, "b": 0.0}, at(0))
    assert guard.passes("gradient", {}, at(0))
    assert told == []
    assert guard.metrics("train") == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_fails_naming_task_dataset_batch_epoch_and_step(value: float) -> None:
    guard = FinitenessGuard("fail", 100, lambda _: None)
    with pytest.raises(NonFiniteLossError) as caught:
        guard.passes("gradient", {"a": 1.0, "b": value}, at(5))
    error = caught.value
    assert str(error).startswith(
        f"the gradient of task 'b' is {value} on batch 1 of dataset 'shapes' at epoch 1, step 5"
    )
    assert (error.task_name, error.dataset, error.batch, error.epoch, error.step) == ("b", "shapes", 1, 1, 5)


def test_skipped_batches_are_counted_and_told() -> None:
    told: list[str] = []
    guard = FinitenessGuard("skip", 100, told.append)
    assert not guard.passes("loss", {"a": math.nan, "b": math.inf}, at(2))
    assert guard.passes("loss", {"a": 1.0}, at(3))
    assert not guard.passes("gradient", {"a": math.nan}, at(4))
    assert guard.metrics("train") == {
        "a/shapes/train/skipped": 2.0,
        "b/shapes/train/skipped": 1.0,
        "model/all/train/skipped": 2.0,
    }
    assert [line.partition(" is ")[0] for line in told] == [
        "skipped a batch: the loss of task 'a'",
        "skipped a batch: the gradient of task 'a'",
    ]


def test_too_many_in_a_row_fail_but_not_in_all() -> None:
    told: list[str] = []
    guard = FinitenessGuard("skip", 2, told.append)
    for step in (0, 1, 3, 4, 6, 7):
        assert not guard.passes("loss", {"a": math.nan}, at(step))
    with pytest.raises(NonFiniteLossError, match="step 8"):
        guard.passes("loss", {"a": math.nan}, at(8))
    assert told[-1].startswith("2 batches in a row were skipped")


def test_the_modules_of_a_gradient_that_is_not_finite_are_named() -> None:
    model = MultitaskClassifier([shape_task(shape) for shape in SHAPES], device=-1)
    assert non_finite_gradients(model) == []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert non_finite_gradients(model) == []
    (_, bias) = model.module_pool["square_head"].parameters()
    bias.grad = torch.tensor([0.0, math.nan])
    assert non_finite_gradients(model) == ["square_head"]


def test_running_statistics_do_not_take_a_skipped_batch_in() -> None:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    model = MultitaskClassifier([shape_task("circle", trunk)], device=-1)
    before = module_weights(model)
    guard = FinitenessGuard("skip", 100, lambda _: None)
    labels = {"circle_task": torch.tensor([0, 1])}

    def passes(inputs: torch.Tensor, step: int) -> bool:
        guard.before(model)
        losses, _ = model.calculate_loss({"circle_data": inputs}, labels)
        return guard.passes("loss", {task: loss.item() for task, loss in losses.items()}, at(step))

    assert not passes(torch.full((2, 2), math.nan), 0)
    after = module_weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert passes(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1)
    assert not torch.equal(
        before["base_mlp/1.running_mean"], module_weights(model)["base_mlp/1.running_mean"]
    )
