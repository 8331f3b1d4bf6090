from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task
from mtl_core.training.config import EarlyStoppingConfig
from mtl_core.training.patience import Evaluation, Patience
from mtl_core.training.watched_metrics import WatchedMetric

MODEL = MultitaskClassifier(
    [Task("t", {"h": nn.Linear(1, 1)}, [Operation("h", [("_input_", "x")])])], device=-1
)


def heard(values: list[float | None], mode: str = "max", **settings: float) -> Patience:
    patience = Patience(WatchedMetric.parse(f"t/d/valid/f1:{mode}"), EarlyStoppingConfig(**settings))  # type: ignore[arg-type]
    for number, value in enumerate(values, start=1):
        patience.hear(Evaluation(number, MODEL, {}), value)
        if patience.is_over:
            break
    return patience


@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=30), st.integers(1, 6))
def test_it_is_over_when_as_many_evaluations_have_passed_since_the_best(values: list[float], n: int) -> None:
    patience = heard(list(values), patience=n)
    assert patience.best is not None
    seen = values[: patience.best.number + patience.waited]
    assert seen[patience.best.number - 1] == max(seen)
    assert patience.best.number == seen.index(max(seen)) + 1
    assert patience.is_over == (patience.waited == n)


def test_an_improvement_has_to_exceed_min_delta_and_nan_is_none() -> None:
    values = [1.0, 0.95, 0.85, None, 0.8]
    for mode, expected in (("min", 3), ("max", 1)):
        best = heard(list(values), mode, patience=9, min_delta=0.1).best
        assert best is not None
        assert best.number == expected
    undefined = heard([None, None, None], patience=2)
    assert undefined.is_over
    assert str(undefined) == "t/d/valid/f1:max is undefined at evaluation 1"
    late = heard([None, 0.5], patience=2)
    assert str(late) == "t/d/valid/f1:max is 0.5 at evaluation 2"


@pytest.mark.parametrize(
    ("values", "mean"), [({"a": 1.0, "b": 2.0}, 1.5), ({"a": 1.0, "b": None}, None), ({}, None)]
)
def test_the_mean_of_all_tasks_is_undefined_where_one_is(
    values: dict[str, float | None], mean: float
) -> None:
    assert Evaluation(1, MODEL, values).mean == mean
    assert mean is None or math.isfinite(mean)


def test_an_evaluation_gives_the_weights_back_that_it_kept() -> None:
    weight = MODEL.module_pool["h"].get_parameter("weight")
    evaluation = Evaluation(1, MODEL, {})
    before = weight.detach().clone()
    evaluation.keep()
    with torch.no_grad():
        weight.add_(1)
    evaluation.keep()
    evaluation.put_back()
    assert torch.equal(weight, before)
