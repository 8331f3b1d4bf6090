from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, TaskloomError, module_weights
from mtl_core.training.freezing import freezing

from ..shapes import SHAPES, shape_loaders, shape_task


def model_with_buffers() -> MultitaskClassifier:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    return MultitaskClassifier([shape_task(shape, trunk) for shape in SHAPES], device=-1)


def train(model: MultitaskClassifier, optimizer: torch.optim.Optimizer) -> None:
    for loader in shape_loaders():
        X_dict, Y_dict = next(iter(loader))
        optimizer.zero_grad()
        torch.stack(list(model.calculate_loss(X_dict, Y_dict)[0].values())).sum().backward()
        optimizer.step()


def changed(model: MultitaskClassifier, before: dict[str, torch.Tensor]) -> set[str]:
    after = module_weights(model)
    return {key.split("/")[0] for key in before if not torch.equal(before[key], after[key])}


def test_not_a_bit_of_a_frozen_module_changes_buffers_included() -> None:
    model = model_with_buffers()
    before = module_weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with freezing(model, ["base_mlp"]) as frozen:
        frozen.train()
        train(model, optimizer)
        assert not model.module_pool["base_mlp"].training
        assert model.module_pool["circle_head"].training
    assert changed(model, before) == {"circle_head", "square_head"}


def test_modules_can_be_frozen_in_the_middle_of_training() -> None:
    model = model_with_buffers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with freezing(model, []) as frozen:
        frozen.train()
        train(model, optimizer)
        before = module_weights(model)
        frozen.freeze(["circle_head"])
        frozen.train()
        train(model, optimizer)
        assert frozen.names == ["circle_head"]
    assert changed(model, before) == {"base_mlp", "square_head"}


def test_gradients_are_wanted_again_afterwards_where_they_were_before() -> None:
    model = model_with_buffers()
    model.module_pool["square_head"].requires_grad_(False)
    wanted = [parameter.requires_grad for parameter in model.parameters()]

    def fail() -> None:
        with freezing(model, ["base_mlp", "square_head"]):
            assert not any(p.requires_grad for p in model.module_pool["base_mlp"].parameters())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_a_module_that_the_model_lacks_is_an_error() -> None:
    with (
        pytest.raises(TaskloomError, match="frozen_modules: the model has no module 'base'"),
        freezing(model_with_buffers(), ["base"]),
    ):
        pass
