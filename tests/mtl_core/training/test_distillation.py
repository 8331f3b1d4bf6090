from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task, module_weights
from mtl_core.losses import BinaryCrossEntropy, CrossEntropy, MeanAbsoluteError, MeanSquaredError
from mtl_core.training.distillation import Teacher, distillation_loss

from ..shapes import SHAPES, shape_task

NUMBERS = st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6).map(
    lambda values: torch.tensor(values).reshape(2, 3)
)


def model_of(trunk: nn.Module | None = None) -> MultitaskClassifier:
    trunk = trunk or nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    return MultitaskClassifier([shape_task(shape, trunk) for shape in SHAPES], device="cpu")


def batch(*shapes: str) -> dict[str, torch.Tensor]:
    return {f"{shape}_data": torch.randn(5, 2) for shape in shapes}


@pytest.mark.parametrize(
    "loss_func", [CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError(), MeanAbsoluteError(), lambda *_: 0]
)
@given(outputs=NUMBERS, targets=NUMBERS)
def test_the_loss_is_nothing_for_equal_answers_and_never_less(
    loss_func: Any, outputs: torch.Tensor, targets: torch.Tensor
) -> None:
    assert distillation_loss(loss_func, targets, targets).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(loss_func, outputs, targets).item() >= -1e-5


def test_classes_are_held_by_the_divergence_of_their_probabilities() -> None:
    theirs = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    ours = torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    loss = distillation_loss(
        CrossEntropy(weight=[1.0, 9.0], label_smoothing=0.5), ours.log() + 7, theirs.log()
    )
    assert loss.item() == pytest.approx((theirs * (theirs / ours).log()).sum().item() / 2, rel=1e-5)


def test_yes_and_no_are_held_by_their_divergence_and_whatever_else_by_the_squared_difference() -> None:
    theirs, ours = torch.tensor([0.5]), torch.tensor([0.2])
    divergence = distillation_loss(BinaryCrossEntropy(), ours.logit(), theirs.logit()).item()
    assert divergence == pytest.approx(
        (theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()).item(), rel=1e-5
    )
    outputs = {"mean": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])}
    targets = {"mean": torch.tensor([1.0, 4.0]), "n": torch.tensor([9])}
    assert distillation_loss(lambda *_: 0, outputs, targets).item() == 2


def test_a_teacher_goes_on_answering_as_the_model_did() -> None:
    model = model_of(nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5)))
    teacher = Teacher(model.eval(), ["circle_task"])
    X_dict = batch("circle")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = module_weights(model)
    with torch.no_grad():
        model.module_pool["base_mlp"].get_parameter("0.weight").add_(1)
    losses: list[float] = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = teacher.losses(X_dict)["circle_task"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1e-3
    assert losses[-1] < losses[0] / 10
    after = module_weights(model)
    assert torch.equal(after["square_head/weight"], before["square_head/weight"])
    assert not torch.equal(after["circle_head/weight"], before["circle_head/weight"])


def test_a_task_is_held_on_every_batch_that_has_the_fields_its_path_reads() -> None:
    model = model_of()
    teacher = Teacher(model, [f"{shape}_task" for shape in SHAPES])
    assert set(teacher.losses(batch("circle"))) == {"circle_task"}
    assert set(teacher.losses(batch(*SHAPES), ["circle_task"])) == {"circle_task", "square_task"}
    assert teacher.losses({"other": torch.zeros(3)}, ["circle_task"]) == {}


def test_a_task_that_reads_whatever_there_is_is_held_on_its_own_data_alone() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.head(torch.stack(list(fields.values())).sum(dim=0))

    task = Task("sum", {"sum": Sum()}, [Operation("sum", ["_input_"])])
    teacher = Teacher(MultitaskClassifier([task], device="cpu"), ["sum"])
    assert teacher.losses(batch("circle", "square"), ["other"]) == {}
    assert set(teacher.losses(batch("circle"), ["sum"])) == {"sum"}


def test_weights_of_examples_are_no_field() -> None:
    teacher = Teacher(model_of(), ["circle_task"])
    X_dict = batch("circle") | {"_weights_": torch.ones(5)}
    assert teacher.losses(X_dict)["circle_task"].item() == pytest.approx(0, abs=1e-6)
