from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_core import MultitaskClassifier, TrainerConfig
from mtl_core.training.optimizers import build_optimizer
from mtl_core.training.parameter_groups import parameter_groups

from ..shapes import SHAPES, shape_task


def shape_model() -> MultitaskClassifier:
    return MultitaskClassifier([shape_task(shape) for shape in SHAPES], device=-1)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"optimizer": "sgd", "optimizer_config": {"sgd_config": {"momentum": 0.8}}}, "SGD"),
        ({"optimizer": "adam"}, "Adam"),
        ({"optimizer": "adam", "optimizer_config": {"adam_config": {"amsgrad": True}}}, "Adam"),
        ({"optimizer": "adamw"}, "AdamW"),
        ({"optimizer": "adamax"}, "Adamax"),
    ],
    ids=str,
)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_steps_are_those_of_torch(settings: dict[str, Any], theirs: str, l2: float) -> None:
    torch.manual_seed(0)
    config = TrainerConfig(lr=0.05, l2=l2, **settings)
    model, other = shape_model(), shape_model()
    other.load_state_dict(model.state_dict())
    optimizer = build_optimizer(config, parameter_groups(config, model))
    extra: dict[str, Any] = {"momentum": 0.8} if theirs == "SGD" else {}
    if "adam_config" in str(settings):
        extra["amsgrad"] = True
    reference = getattr(torch.optim, theirs)(other.parameters(), lr=0.05, weight_decay=l2, **extra)
    for step in range(4):
        for ours, its in zip(model.named_parameters(), other.parameters(), strict=True):
            # The square's head has no gradient at first: it stays, and its steps are counted by themselves.
            waits = step < 2 and "square" in ours[0]
            ours[1].grad = None if waits else torch.randn_like(its)
            its.grad = None if waits else ours[1].grad.clone()
        optimizer.step()
        reference.step()
    for ours, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours, its, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamax"])
def test_memory_layouts_of_parameters_and_gradients_make_no_difference(optimizer: str) -> None:
    torch.manual_seed(0)
    config, plain, turned = TrainerConfig(optimizer=optimizer), shape_model(), shape_model()
    turned.load_state_dict(plain.state_dict())
    for parameter in turned.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    optimizers = [build_optimizer(config, parameter_groups(config, model)) for model in (plain, turned)]
    for step in range(3):
        for one, other in zip(plain.parameters(), turned.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            # Now in the layout of the parameter, now in another.
            other.grad = torch.empty_like(other if step % 2 else one).copy_(one.grad)
            if step == 2 and one.ndim == 2:
                one.grad = one.grad.t().contiguous().t()
        for of_model in optimizers:
            of_model.step()
    for one, other in zip(plain.parameters(), turned.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
