from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, TaskloomError, TrainerConfig
from mtl_core.training.freezing import freezing
from mtl_core.training.optimizers import build_optimizer
from mtl_core.training.parameter_groups import parameter_groups, set_learning_rate

from ..shapes import SHAPES, shape_task

TRUNK = ["base_mlp/0.weight", "base_mlp/0.bias"]
HEADS = ["circle_head/weight", "circle_head/bias", "square_head/weight", "square_head/bias"]


def shape_model(**heads: nn.Module) -> MultitaskClassifier:
    return MultitaskClassifier([shape_task(shape, head=heads.get(shape)) for shape in SHAPES], device=-1)


def named(model: MultitaskClassifier, **settings: Any) -> dict[float, list[str]]:
    """The parameters' names by learning rate."""
    groups = parameter_groups(TrainerConfig(lr=0.1, **settings), model)
    assert len({group["lr"] for group in groups}) == len(groups)
    return {group["lr"]: [name for name, _ in group["params"]] for group in groups}


def tied_model() -> MultitaskClassifier:
    """Two heads of one weight and a bias each."""
    first, second = nn.Linear(4, 2), nn.Linear(4, 2)
    second.weight = first.weight
    return shape_model(circle=first, square=second)


def test_without_rates_of_their_own_all_modules_are_one_group() -> None:
    assert named(shape_model()) == {0.1: [*TRUNK, *HEADS]}


def test_modules_have_their_own_rates_and_the_schedule_scales_all() -> None:
    model = shape_model()
    config = TrainerConfig(lr=0.1, module_lrs={"base_mlp": 0.01, "square_head": 0.2})
    optimizer = build_optimizer(config, parameter_groups(config, model))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.1, 0.2])
    set_learning_rate(optimizer.param_groups, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05, 0.1])


def test_a_step_moves_each_module_by_its_own_rate() -> None:
    model = shape_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = TrainerConfig(lr=0.5, optimizer="sgd", module_lrs={"circle_head": 0.25})
    optimizer = build_optimizer(config, parameter_groups(config, model))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.25 if "circle_head" in name else 0.5
        assert torch.allclose(before[name] - parameter, torch.tensor(rate))


def test_frozen_modules_are_left_out() -> None:
    model = shape_model()
    with freezing(model, ["base_mlp"]):
        assert named(model) == {0.1: HEADS}
    assert named(model) == {0.1: [*TRUNK, *HEADS]}


def test_a_tied_parameter_is_in_one_group_that_of_the_module_with_a_rate() -> None:
    assert named(tied_model()) == {0.1: [*TRUNK, *HEADS[:2], HEADS[3]]}
    for owner, name in (("circle_head", HEADS[1]), ("square_head", HEADS[3])):
        others = [other for other in (*TRUNK, HEADS[1], HEADS[3]) if other != name]
        assert named(tied_model(), module_lrs={owner: 0.01}) == {0.1: others, 0.01: [HEADS[0], name]}


def test_two_rates_for_a_tied_parameter_are_an_error() -> None:
    with pytest.raises(
        TaskloomError, match=r"'circle_head' and 'square_head' share .*'circle_head/weight'.*0.01 and 0.02"
    ):
        named(tied_model(), module_lrs={"circle_head": 0.01, "square_head": 0.02})


def test_a_module_that_the_model_lacks_is_an_error() -> None:
    with pytest.raises(
        TaskloomError, match=r"module_lrs: the model has no module 'base'; it has \['base_mlp'"
    ):
        named(shape_model(), module_lrs={"base": 0.01})


def test_nothing_to_train_is_an_error() -> None:
    model = shape_model().requires_grad_(False)
    config = TrainerConfig()
    with pytest.raises(TaskloomError, match="no parameter to train"):
        build_optimizer(config, parameter_groups(config, model))
