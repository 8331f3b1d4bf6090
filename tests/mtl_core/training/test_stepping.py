from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, NonFiniteLossError, module_weights
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard
from mtl_core.training.precision import Precision
from mtl_core.training.stepping import Stepper

from ..shapes import SHAPES, shape_data, shape_task

AT = BatchPosition(("shapes",), epoch=2, batch=3, step=11)


class Training:
    """A model of two tasks whose gradients become steps of SGD with rate 1."""

    def __init__(self, policy: str = "fail", grad_clip: float = 0.0) -> None:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
        self.model = MultitaskClassifier([shape_task(shape, trunk) for shape in SHAPES], device="cpu")
        self.told: list[str] = []
        self.average = WeightAverage(self.model, 0.5)
        self.stepper = Stepper(
            self.model,
            torch.optim.SGD(self.model.parameters(), lr=1.0),
            Precision("float32", torch.device("cpu")),
            FinitenessGuard(policy, 10, self.told.append),  # type: ignore[arg-type]
            grad_clip,
            self.average,
        )
        self.before = module_weights(self.model)

    def losses(self, *shapes: str, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        for shape in shapes:
            data = shape_data(shape)
            X_dict, Y_dict = (
                {name: values[rows] for name, values in part.items()} for part in (data.X_dict, data.Y_dict)
            )
            losses |= self.model.calculate_loss(X_dict, Y_dict)[0]
        return losses

    def add(self, *shapes: str, rows: slice = slice(None), factor: float = 1.0) -> None:
        self.stepper.add({task: loss * factor for task, loss in self.losses(*shapes, rows=rows).items()}, AT)

    def moved(self) -> torch.Tensor:
        after = module_weights(self.model)
        return torch.cat([(after[key] - self.before[key]).flatten() for key in sorted(after)])


def test_gradients_of_several_batches_are_averaged() -> None:
    whole, parts = Training(), Training()
    whole.add("circle")
    for start in (0, 16, 32, 48):
        parts.add("circle", rows=slice(start, start + 16))
    for training in (whole, parts):
        assert not training.moved().any()
        training.stepper.step()
    assert torch.allclose(whole.moved(), parts.moved(), atol=1e-6)
    assert whole.moved().abs().max() > 1e-3


def test_the_norm_of_the_mean_is_clipped() -> None:
    training = Training(grad_clip=1e-3)
    for _ in range(3):
        training.add(*SHAPES)
    training.stepper.step()
    assert training.moved().norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_nothing_gathered_is_no_step() -> None:
    training = Training()
    training.stepper.add({}, AT)
    training.stepper.add({"circle_task": torch.tensor(1.0)}, AT)
    training.stepper.step()
    assert not training.moved().any()
    with training.average.in_place():
        assert not training.moved().any()


def test_the_average_takes_in_every_step() -> None:
    training = Training()
    training.add("circle")
    training.stepper.step()
    moved = training.moved()
    with training.average.in_place():
        assert torch.allclose(training.moved(), 0.9 * moved, atol=1e-6)


def test_a_gradient_that_is_not_finite_fails_naming_the_task_that_made_it() -> None:
    training = Training()
    losses = training.losses(*SHAPES)
    losses["square_task"] = losses["square_task"] * math.inf
    with pytest.raises(NonFiniteLossError) as caught:
        training.stepper.add(losses, AT)
    error = caught.value
    assert (error.what, error.task_name, error.dataset) == ("gradient", "square_task", "shapes")
    assert (error.epoch, error.batch, error.step) == (2, 3, 11)
    assert not math.isfinite(error.value)


def test_a_skipped_gradient_is_forgotten_and_training_goes_on() -> None:
    training = Training("skip")
    training.add("circle", factor=math.inf)
    training.stepper.step()
    assert not training.moved().any()
    assert len(training.told) == 1
    assert training.told[0].startswith("skipped a batch: the gradient of task 'circle_task'")
    clean = Training()
    for other in (training, clean):
        other.add("square")
        other.stepper.step()
    assert torch.equal(training.moved(), clean.moved())


def test_gradients_that_an_earlier_training_left_do_not_count() -> None:
    training = Training()
    training.model.calculate_loss(shape_data("circle").X_dict, shape_data("circle").Y_dict)[0][
        "circle_task"
    ].backward()
    Stepper(
        training.model,
        torch.optim.SGD(training.model.parameters(), lr=1.0),
        Precision("float32", torch.device("cpu")),
        FinitenessGuard("fail", 0, training.told.append),
    )
    assert all(parameter.grad is None for parameter in training.model.parameters())
