from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import TaskloomError
from mtl_core.training.watched_metrics import WatchedMetric

METRICS = {
    "circle/shapes/valid/accuracy": 0.5,
    "circle/shapes/valid/loss": 2.0,
    "square/shapes/valid/accuracy": 1.0,
    "square/shapes/valid/loss": 1.0,
    "square/others/valid/loss": 6.0,
    "model/all/valid/loss": 1.5,
    "circle_slice:far/shapes/valid/accuracy": 0.25,
}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("circle/shapes/valid/loss:min", 2.0),
        ("model/all/valid/loss:min", 1.5),
        (["circle/shapes/valid/loss:min", "square/shapes/valid/loss:min"], 1.5),
        # The whole model's loss is no task's.
        ("*/shapes/valid/loss:min", 1.5),
        ("*/*/valid/loss:min", 3.0),
        ("square/*/valid/loss:min", 3.5),
        ("c*/shapes/valid/accuracy:max", 0.375),
        ("square/shapes/*/loss:min", 1.0),
        ("square/shapes/valid/acc*:max", 1.0),
        # What several keys mean counts once.
        (["*/*/valid/loss:min", "square/shapes/valid/loss:min"], 3.0),
        ("circle_slice:far/shapes/valid/accuracy:max", 0.25),
    ],
)
def test_the_value_is_the_mean_of_all_that_match(metric: Any, expected: float) -> None:
    assert WatchedMetric.parse(metric).value(METRICS) == expected


def test_a_mean_with_a_nan_is_unknown() -> None:
    metrics = METRICS | {"square/shapes/valid/loss": math.nan}
    assert WatchedMetric.parse("*/*/valid/loss:min").value(metrics) is None
    assert WatchedMetric.parse("circle/*/valid/loss:min").value(metrics) == 2.0


def test_a_metric_that_is_not_logged_is_an_error_naming_those_that_are() -> None:
    with pytest.raises(TaskloomError, match=r"'circle/shapes/test/loss'.*model/all/valid/loss"):
        WatchedMetric.parse("circle/shapes/test/loss:min").value(METRICS)
    with pytest.raises(TaskloomError, match="'nobody/shapes/valid/loss'"):
        WatchedMetric.parse(["circle/*/valid/loss:min", "nobody/shapes/valid/loss:min"]).value(METRICS)
    with pytest.raises(TaskloomError, match="none at all"):
        WatchedMetric.parse("circle/shapes/test/loss:min").value({})


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("a/b/c/d", "task/dataset/split/metric:mode"),
        ("f1-min", "task/dataset/split/metric:mode"),
        ("f1:min", "task/dataset/split/metric:mode"),
        ("a/b/c/d/e:min", "task/dataset/split/metric:mode"),
        ("a/b/c/d:least", "mode 'least'"),
        ([], "at least one"),
        (["a/b/c/d:min", "a/b/c/e:max"], "no mean"),
    ],
)
def test_what_is_no_metric_is_refused(metric: Any, message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        WatchedMetric.parse(metric)


def test_a_metric_is_read_for_one_task() -> None:
    every = WatchedMetric.parse("*/*/valid/loss:min")
    circle = every.for_task("circle")
    assert circle is not None
    assert circle.value(METRICS) == 2.0
    assert circle.name == "circle/*/valid/loss"
    one = WatchedMetric.parse(["circle/shapes/valid/loss:min", "square/others/valid/loss:min"])
    square = one.for_task("square")
    assert square is not None
    assert square.value(METRICS) == 6.0
    assert one.for_task("triangle") is None


def test_a_task_s_name_is_no_pattern() -> None:
    watched = WatchedMetric.parse("*/d/valid/loss:min").for_task("a*")
    assert watched is not None
    assert watched.matches(["a*/d/valid/loss", "ab/d/valid/loss"]) == ["a*/d/valid/loss"]


def test_nothing_unknown_is_better_and_anything_is_better_than_it() -> None:
    watched = WatchedMetric.parse("a/b/c/d:max")
    assert watched.better(0.1, None)
    assert not watched.better(None, 0.1)
    assert not watched.better(None, None)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 2))
def test_better_is_strict_and_the_modes_mirror_each_other(new: float, old: float, delta: float) -> None:
    least, most = WatchedMetric.parse("a/b/c/d:min"), WatchedMetric.parse("a/b/c/d:max")
    assert most.better(new, old, delta) == (new > old + delta)
    assert least.better(-new, -old, delta) == most.better(new, old, delta)
    assert not (most.better(new, old, delta) and most.better(old, new, delta))
