from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    Task,
    add_slice_labels,
    convert_to_slice_tasks,
    module_weights,
)
from mtl_core.losses import BinaryCrossEntropy, CrossEntropy, Huber, MeanAbsoluteError, MeanSquaredError
from mtl_core.scaling import ScaledLoss, TargetScale
from mtl_core.training.priors import set_class_priors


class Squeezed(nn.Module):
    """A head inside a module of its own, whose answer takes another shape after it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


def model_of(head: nn.Module, loss: Any, *further: str) -> MultitaskClassifier:
    """A model of task ``t``, and of ``further`` ones on the same modules."""
    trunk = nn.Linear(2, 3)
    operations = [Operation("trunk", [("_input_", "x")]), Operation("head", ["trunk"])]
    tasks = [
        Task(name, {"trunk": trunk, "head": head}, operations, loss_func=loss) for name in ("t", *further)
    ]
    return MultitaskClassifier(tasks, device=-1)


def loaders_of(*labels: torch.Tensor) -> list[DictDataLoader]:
    return [
        DictDataLoader(
            DictDataset(f"d{i}", "train", {"x": torch.ones(len(given), 2)}, {"t": given}),
            shuffle=len(given) > 0,
        )
        for i, given in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("loss", "n_outputs", "labels", "expected"),
    [
        (CrossEntropy(), 3, torch.tensor([0, 1, 1, 2, -1]), torch.tensor([0.25, 0.5, 0.25]).log()),
        # A class without a label counts half a label.
        (CrossEntropy(), 2, torch.tensor([1, 1]), torch.tensor([0.2, 0.8]).log()),
        (CrossEntropy(), 2, torch.tensor([[0.2, 0.8], [0.4, 0.6]]), torch.tensor([0.3, 0.7]).log()),
        (BinaryCrossEntropy(), 1, torch.tensor([0, 1, 1, 1]), torch.tensor([3.0]).log()),
        (
            BinaryCrossEntropy(),
            2,
            torch.tensor([[0, 1], [0, 1], [1, -1], [1, 1]]),
            torch.tensor([1.0, 5.0]).log(),
        ),
        (MeanSquaredError(), 1, torch.tensor([1.0, 2.0, 6.0, -1.0]), torch.tensor([3.0])),
        (MeanAbsoluteError(), 2, torch.tensor([[1.0, 5.0], [3.0, -1.0]]), torch.tensor([2.0, 5.0])),
        (Huber(), 1, torch.tensor([[0.5], [1.5]]), torch.tensor([1.0])),
        # The mean is 140, which is two deviations above the scale's.
        (
            ScaledLoss(Huber(), TargetScale(mean=[100.0], std=[20.0])),
            1,
            torch.tensor([120, 160, -1]),
            torch.tensor([2.0]),
        ),
    ],
)
def test_a_head_starts_at_what_its_labels_are_like(
    loss: Any, n_outputs: int, labels: torch.Tensor, expected: torch.Tensor
) -> None:
    model = model_of(nn.Sequential(nn.ReLU(), nn.Linear(3, n_outputs)), loss)
    before = module_weights(model)
    (line,) = set_class_priors(model, loaders_of(labels))
    assert line.startswith("task 't': module 'head' starts at")
    after = module_weights(model)
    assert torch.allclose(after["head/1.bias"], expected)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head/1.bias"}


def test_labels_of_all_loaders_count() -> None:
    model = model_of(nn.Linear(3, 2), CrossEntropy())
    set_class_priors(model, loaders_of(torch.tensor([0]), torch.tensor([1, 1, 1])))
    assert torch.allclose(module_weights(model)["head/bias"].exp(), torch.tensor([0.25, 0.75]))


def test_the_last_layer_is_found_by_what_it_answers() -> None:
    model = model_of(Squeezed(), MeanSquaredError())
    before = module_weights(model)
    set_class_priors(model, loaders_of(torch.tensor([2.0, 4.0])))
    after = module_weights(model)
    assert after["head/layers.3.bias"].tolist() == [3.0]
    assert torch.equal(before["head/layers.0.bias"], after["head/layers.0.bias"])


def test_an_output_without_a_label_keeps_its_bias() -> None:
    model = model_of(nn.Linear(3, 2), BinaryCrossEntropy())
    before = module_weights(model)["head/bias"]
    set_class_priors(model, loaders_of(torch.tensor([[1, -1], [0, -1]])))
    after = module_weights(model)["head/bias"]
    assert after[0] == 0
    assert after[1] == before[1]


def frozen(head: nn.Module) -> nn.Module:
    return head.requires_grad_(False)


@pytest.mark.parametrize(
    ("head", "loss", "labels", "reason"),
    [
        (nn.Linear(3, 2, bias=False), CrossEntropy(), torch.tensor([0, 1]), "has no bias"),
        (
            nn.Sequential(nn.Linear(3, 2), nn.Tanh()),
            CrossEntropy(),
            torch.tensor([0, 1]),
            "not that of a linear",
        ),
        (frozen(nn.Linear(3, 2)), CrossEntropy(), torch.tensor([0, 1]), "'head' is frozen"),
        (nn.Linear(3, 2), CrossEntropy(), torch.tensor([0, 2]), "do not fit its 2 outputs"),
        (nn.Linear(3, 2), CrossEntropy(), torch.rand(2, 3), "do not fit its 2 outputs"),
        (nn.Linear(3, 2), BinaryCrossEntropy(), torch.tensor([0, 1]), "do not fit its 2 outputs"),
        (nn.Linear(3, 2), CrossEntropy(), torch.tensor([-1, -1]), "has no label"),
        (nn.Linear(3, 2), nn.functional.cross_entropy, torch.tensor([0, 1]), "none of the catalogue"),
    ],
)
def test_a_head_that_does_not_allow_it_is_left_and_said_why(
    head: nn.Module, loss: Any, labels: torch.Tensor, reason: str
) -> None:
    model = model_of(head, loss)
    before = module_weights(model)
    (line,) = set_class_priors(model, loaders_of(labels))
    assert line.startswith("task 't': its head is left as it is: ")
    assert reason in line
    after = module_weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_shared_head_is_left() -> None:
    model = model_of(nn.Linear(3, 2), CrossEntropy(), "u")
    (line,) = set_class_priors(model, loaders_of(torch.tensor([0, 1])))
    assert line.endswith("module 'head' gives the answers of task 'u' too")


def test_only_the_modules_that_may_be_are_changed() -> None:
    model = model_of(nn.Linear(3, 2), CrossEntropy())
    (line,) = set_class_priors(model, loaders_of(torch.tensor([0, 1])), modules=["trunk"])
    assert line.endswith("module 'head' has its weights from elsewhere")
    set_class_priors(model, loaders_of(torch.tensor([0, 1])), modules=["head"])
    assert module_weights(model)["head/bias"].exp().tolist() == pytest.approx([0.5, 0.5])


def test_tasks_without_labels_are_passed_over_and_nothing_random_is_drawn() -> None:
    model = model_of(nn.Linear(3, 2), CrossEntropy())
    assert set_class_priors(model, []) == []
    assert set_class_priors(model, loaders_of(torch.empty(0, dtype=torch.int64))) == []
    model.train()
    torch.manual_seed(0)
    set_class_priors(model, loaders_of(torch.tensor([0, 1])))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert all(module.training for module in model.modules())


def test_heads_of_slices_start_at_their_own_shares() -> None:
    base = Task("t", {"head": nn.Linear(2, 2)}, [Operation("head", [("_input_", "x")])])
    model = MultitaskClassifier(convert_to_slice_tasks(base, ["rare"]), device="cpu")
    data = DictDataset("d", "train", {"x": torch.zeros(4, 2)}, {"t": torch.tensor([0, 1, 1, 1])})
    loader = DictDataLoader(data)
    add_slice_labels(loader, base, np.rec.array([(1,), (0,), (0,), (0,)], dtype=[("rare", int)]))
    lines = set_class_priors(model, [loader])
    assert [line for line in lines if "left as it is" not in line] == [
        "task 't_slice:rare_ind': module 't_slice:rare_ind_head' starts at the shares of its 2 classes in 4 labels",
        "task 't_slice:base_ind': module 't_slice:base_ind_head' starts at the shares of its 2 classes in 4 labels",
        "task 't': module 't_master_head' starts at the shares of its 2 classes in 4 labels",
    ]
    bias = model.module_pool["t_slice:rare_ind_head"].bias
    assert torch.allclose(bias.exp(), torch.tensor([0.75, 0.25]))
