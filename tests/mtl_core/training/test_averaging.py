from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_core import MultitaskClassifier, module_weights
from mtl_core.training.averaging import WeightAverage

from ..shapes import shape_task


def model_at(value: float) -> MultitaskClassifier:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    model = MultitaskClassifier([shape_task("circle", trunk)], device=-1)
    set_to(model, value)
    return model


def set_to(model: MultitaskClassifier, value: float) -> None:
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)


def averaged(average: WeightAverage, model: MultitaskClassifier) -> float:
    with average.in_place():
        return next(model.parameters()).flatten()[0].item()


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20), st.floats(0, 0.99))
def test_the_mean_follows_its_definition(values: list[float], decay: float) -> None:
    model = model_at(1.0)
    average = WeightAverage(model, decay)
    expected = 1.0
    for n, value in enumerate(values):
        set_to(model, value)
        average.update()
        kept = min(decay, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * value
    assert averaged(average, model) == pytest.approx(expected, abs=1e-4)


def test_the_weights_come_back_bit_for_bit_even_after_a_failure() -> None:
    torch.manual_seed(0)
    model = model_at(0.0)
    average = WeightAverage(model, 0.9)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    average.update()
    before = module_weights(model)

    def fail() -> None:
        with average.in_place():
            assert not torch.equal(module_weights(model)["circle_head/weight"], before["circle_head/weight"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    after = module_weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_mean_is_put_in_place_for_good() -> None:
    model = model_at(0.0)
    average = WeightAverage(model, 0.5)
    set_to(model, 1.0)
    average.update()
    average.apply()
    assert module_weights(model)["circle_head/bias"].tolist() == pytest.approx([0.9, 0.9])


def test_buffers_and_frozen_parameters_are_taken_as_they_are() -> None:
    model = model_at(0.0)
    model.module_pool["circle_head"].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    set_to(model, 1.0)
    norm = model.module_pool["base_mlp"].get_submodule("1")
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(3.0)
    average.update()
    average.apply()
    weights = module_weights(model)
    assert weights["base_mlp/1.running_mean"].tolist() == [3.0] * 4
    assert weights["circle_head/bias"].tolist() == [1.0, 1.0]


def test_modules_that_were_put_back_begin_anew() -> None:
    model = model_at(0.0)
    average = WeightAverage(model, 0.9)
    set_to(model, 5.0)
    average.restart(["circle_head"])
    average.apply()
    weights = module_weights(model)
    assert weights["circle_head/bias"].tolist() == [5.0, 5.0]
    assert weights["base_mlp/0.bias"].tolist() == [0.0] * 4
