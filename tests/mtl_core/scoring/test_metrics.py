"""Every metric against scikit-learn's, on random labels, predictions and probabilities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mtl_core.scoring.metrics import METRICS, UndefinedMetricError

Array = np.ndarray[Any, Any]


def case(seed: int, n: int, k: int) -> tuple[Array, Array, Array]:
    """Labels, predictions and probabilities; few distinct probabilities, so that ranks tie."""
    rng = np.random.default_rng(seed)
    probs = rng.integers(1, 5, (n, k)).astype(float)
    probs /= probs.sum(axis=1, keepdims=True)
    return rng.integers(0, k, n), probs.argmax(axis=1), probs


MULTICLASS: dict[str, Callable[[Array, Array, Array], float]] = {
    "accuracy": lambda g, p, _: sk.accuracy_score(g, p),
    "balanced_accuracy": lambda g, p, _: sk.balanced_accuracy_score(g, p),
    "f1_macro": lambda g, p, _: sk.f1_score(g, p, average="macro"),
    "f1_micro": lambda g, p, _: sk.f1_score(g, p, average="micro"),
    "matthews_corrcoef": lambda g, p, _: sk.matthews_corrcoef(g, p),
    "coverage": lambda g, p, _: 1.0,
    "log_loss": lambda g, _, q: sk.log_loss(g, q, labels=range(q.shape[1])),
    "mse": lambda g, p, _: sk.mean_squared_error(g, p),
    "mae": lambda g, p, _: sk.mean_absolute_error(g, p),
}
BINARY: dict[str, Callable[[Array, Array, Array], float]] = {
    "precision": lambda g, p, _: sk.precision_score(g, p, zero_division=0.0),
    "recall": lambda g, p, _: sk.recall_score(g, p, zero_division=0.0),
    "f1": lambda g, p, _: sk.f1_score(g, p, zero_division=0.0),
    "fbeta": lambda g, p, _: sk.fbeta_score(g, p, beta=1, zero_division=0.0),
}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), k=st.integers(2, 5))
@pytest.mark.parametrize("name", MULTICLASS)
def test_multiclass_metrics_agree_with_scikit_learn(name: str, seed: int, n: int, k: int) -> None:
    golds, preds, probs = case(seed, n, k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = MULTICLASS[name](golds, preds, probs)
    assert METRICS.build(name)(golds, preds, probs) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40))
@pytest.mark.parametrize("name", BINARY)
def test_binary_metrics_agree_with_scikit_learn(name: str, seed: int, n: int) -> None:
    golds, preds, probs = case(seed, n, 2)
    assert METRICS.build(name)(golds, preds, probs) == pytest.approx(BINARY[name](golds, preds, probs))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 60))
def test_roc_auc_agrees_with_scikit_learn_ties_and_all(seed: int, n: int) -> None:
    golds, preds, probs = case(seed, n, 2)
    golds[:2] = 0, 1
    expected = pytest.approx(sk.roc_auc_score(golds, probs[:, 1]))
    roc_auc = METRICS.build("roc_auc")
    assert roc_auc(golds, preds, probs) == expected
    assert roc_auc(golds, preds, probs[:, 1:]) == expected
    assert roc_auc(golds, preds, probs[:, 1]) == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60))
def test_average_precision_agrees_with_scikit_learn_ties_and_all(seed: int, n: int) -> None:
    golds, preds, probs = case(seed, n, 2)
    golds[0] = 1
    expected = pytest.approx(sk.average_precision_score(golds, probs[:, 1]))
    average_precision = METRICS.build("average_precision")
    assert average_precision(golds, preds, probs) == expected
    assert average_precision(golds, preds, probs[:, 1]) == expected


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 60), k=st.integers(3, 5))
def test_one_versus_rest_roc_auc_agrees_with_scikit_learn(seed: int, n: int, k: int) -> None:
    golds, preds, probs = case(seed, n, k)
    golds[:k] = range(k)
    expected = sk.roc_auc_score(golds, probs, multi_class="ovr")
    assert METRICS.build("roc_auc_ovr")(golds, preds, probs) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), pos_label=st.sampled_from([1, 2]))
@pytest.mark.parametrize("name", BINARY)
def test_either_of_two_classes_may_be_the_one_it_is_about(
    name: str, seed: int, n: int, pos_label: int
) -> None:
    rng = np.random.default_rng(seed)
    golds, preds = rng.integers(1, 3, n), rng.integers(1, 3, n)
    golds[0], preds[0] = 1, 2
    expected = {
        "precision": sk.precision_score,
        "recall": sk.recall_score,
        "f1": sk.f1_score,
        "fbeta": partial(sk.fbeta_score, beta=1),
    }[name](golds, preds, pos_label=pos_label, zero_division=0.0)
    metric = METRICS.build({"type": name, "pos_label": pos_label})
    assert metric(golds, preds, preds) == pytest.approx(expected)


def test_coverage_is_the_share_of_examples_that_are_predicted() -> None:
    preds = np.array([-1, 0, 1, -1, 1])
    assert METRICS.build("coverage")(preds, preds, preds) == pytest.approx(0.6)
    several = np.array([[-1, -1], [-1, 1]])
    assert METRICS.build("coverage")(several, several, several) == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), k=st.integers(1, 4), beta=st.floats(0.1, 5))
def test_metrics_with_arguments_agree_with_scikit_learn(seed: int, n: int, k: int, beta: float) -> None:
    golds, preds, _ = case(seed, n, 2)
    expected = sk.fbeta_score(golds, preds, beta=beta, zero_division=0.0)
    assert METRICS.build({"type": "fbeta", "beta": beta})(golds, preds, preds) == pytest.approx(expected)
    rng = np.random.default_rng(seed)
    golds, probs = rng.integers(0, 4, n), rng.random((n, 4))
    expected = sk.top_k_accuracy_score(golds, probs, k=k, labels=range(4)) if k < 4 else 1.0
    assert METRICS.build({"type": "top_k", "k": k})(golds, golds, probs) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 40))
def test_regression_metrics_leave_missing_labels_out(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    golds, preds = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    assert METRICS.build("r2")(golds[:, 0], preds[:, 0], preds) == pytest.approx(
        sk.r2_score(golds[:, 0], preds[:, 0])
    )
    golds[rng.random((n, 2)) < 0.3] = math.nan
    golds[0] = 0.5
    given_ = ~np.isnan(golds)
    assert METRICS.build("mse")(golds, preds, preds) == pytest.approx(
        sk.mean_squared_error(golds[given_], preds[given_])
    )
    assert METRICS.build("mae")(golds, preds, preds) == pytest.approx(
        sk.mean_absolute_error(golds[given_], preds[given_])
    )


def test_multi_label_metrics_leave_missing_labels_out() -> None:
    golds = np.array([[1, 0], [math.nan, 1], [0, 0]])
    preds = np.array([[1, 0], [1, 1], [1, 0]])
    assert METRICS.build("accuracy")(golds, preds, preds) == pytest.approx(2 / 3)
    assert METRICS.build("f1_micro")(golds, preds, preds) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("name", "golds", "preds", "probs"),
    [
        ("roc_auc", [1, 1], [1, 1], [[0.1, 0.9]] * 2),
        ("roc_auc", [0, 1], [1, 1], [[0.1, 0.8, 0.1]] * 2),
        ("average_precision", [0, 0], [1, 1], [[0.1, 0.9]] * 2),
        ("average_precision", [0, 2], [1, 1], [[0.1, 0.9]] * 2),
        ("roc_auc_ovr", [0, 1], [1, 1], [[0.1, 0.8, 0.1]] * 2),
        ("roc_auc_ovr", [0, 1, 2], [1, 1, 1], [[0.1, 0.9]] * 3),
        ("roc_auc_ovr", [[0, 1]], [[1, 1]], [[0.1, 0.9]]),
        ("f1", [0, 2], [0, 1], [[0.5, 0.5]] * 2),
        ("precision", [[0, 1]], [[0, 1]], [[0.5, 0.5]]),
        ("top_k", [0, 1], [0, 1], [[0.5, 0.5]] * 2),
        ("log_loss", [0, 5], [0, 1], [[0.5, 0.5]] * 2),
        ("log_loss", [[0, 1]], [[0, 1]], [[0.5, 0.5]]),
        ("r2", [2.0, 2.0], [1.0, 2.0], [[1.0], [2.0]]),
        ("mse", [1.0, 2.0], [[1.0, 2.0]] * 2, [[1.0, 2.0]] * 2),
        ("accuracy", [1, 0], [[1, 0, 1]] * 2, [[1, 0, 1]] * 2),
        ("f1_macro", [[0, 1]], [[0, 1]], [[0.5, 0.5]]),
    ],
)
def test_a_metric_without_a_value_says_why(name: str, golds: Any, preds: Any, probs: Any) -> None:
    with pytest.raises(UndefinedMetricError):
        METRICS.build(name)(np.array(golds), np.array(preds), np.array(probs))
