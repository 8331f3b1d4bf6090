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
from scipy import stats
from sklearn import metrics as sk

from mtl_core import SpecError
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
        ("f1_macro", [[0, 1]], [0], [[0.5, 0.5]]),
        ("f1_macro", [[0, 0]], [[0, 0]], [[0.5, 0.5]]),
        ("roc_auc", [[0, 1], [0, 1]], [[0, 1]] * 2, [[0.5, 0.5]] * 2),
        ("roc_auc", [[0, 1]], [[0, 1]], [[0.5, 0.5, 0.5]]),
        ("cohen_kappa", [1, 1], [1, 1], [[0.5, 0.5]] * 2),
        ("cohen_kappa", [[0, 1]], [[0, 1]], [[0.5, 0.5]]),
        ("cohen_kappa", [0, 10**9], [0, 1], [[0.5, 0.5]] * 2),
        ("calibration_error", [0, 3], [0, 1], [[0.2, 0.2, 0.6]] * 2),
        ("calibration_error", [0, 2], [0, 1], [[0.5, 0.5]] * 2),
        ("classwise_calibration_error", [0, 3], [0, 1], [[0.2, 0.2, 0.6]] * 2),
        ("classwise_calibration_error", [0, 2], [0, 1], [0.5, 0.5]),
        ("classwise_calibration_error", [[0, 2]] * 2, [[0, 1]] * 2, [[0.5, 0.5]] * 2),
        ("classwise_calibration_error", [[0, 1]] * 2, [[0, 1]] * 2, [[0.5]] * 2),
        ("classwise_calibration_error", [[math.nan]], [[0]], [[0.5]]),
        ("spearman", [1.0, 1.0], [1.0, 2.0], [1.0, 2.0]),
        ("pearson", [1.0, 2.0], [1.0, 1.0], [1.0, 2.0]),
        ("explained_variance", [1.0, 1.0], [1.0, 2.0], [1.0, 2.0]),
        ("poisson_deviance", [1.0, 2.0], [1.0, 0.0], [1.0, 0.0]),
        ("pinball", [1.0, 2.0], [1.0, 2.0], [[1.0, 2.0]] * 2),
        ("interval_coverage", [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]),
        ("ndcg", [0, 0], [1.0, 2.0], [1.0, 2.0]),
        ("ndcg", [1, -2], [1.0, 2.0], [1.0, 2.0]),
        ("ndcg", [[1, 1, 1]], [1.0], [1.0]),
    ],
)
def test_a_metric_without_a_value_says_why(name: str, golds: Any, preds: Any, probs: Any) -> None:
    with pytest.raises(UndefinedMetricError):
        METRICS.build(name)(np.array(golds), np.array(preds), np.array(probs))


def several(seed: int, n: int, k: int) -> tuple[Array, Array, Array]:
    """Labels of which an example has several, each of them both 0 and 1 at least once, with what is predicted."""
    rng = np.random.default_rng(seed)
    golds, probs = rng.integers(0, 2, (n, k)), rng.integers(1, 5, (n, k)) / 5
    golds[0], golds[1] = 0, 1
    return golds, (probs > 0.5).astype(int), probs


MULTILABEL: dict[str, Callable[[Array, Array, Array], float]] = {
    "f1_macro": lambda g, p, _: sk.f1_score(g, p, average="macro"),
    "f1_micro": lambda g, p, _: sk.f1_score(g, p, average="micro"),
    "jaccard": lambda g, p, _: sk.jaccard_score(g, p, average="macro"),
    "hamming_loss": lambda g, p, _: sk.hamming_loss(g, p),
    "accuracy": lambda g, p, _: sk.accuracy_score(g, p),
    "roc_auc": lambda g, _, q: sk.roc_auc_score(g, q, average="macro"),
    "average_precision": lambda g, _, q: sk.average_precision_score(g, q, average="macro"),
}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 40), k=st.integers(2, 4))
@pytest.mark.parametrize("name", MULTILABEL)
def test_multi_label_metrics_agree_with_scikit_learn(name: str, seed: int, n: int, k: int) -> None:
    golds, preds, probs = several(seed, n, k)
    assert METRICS.build(name)(golds, preds, probs) == pytest.approx(MULTILABEL[name](golds, preds, probs))


@pytest.mark.parametrize("name", ["f1_macro", "jaccard", "hamming_loss", "roc_auc", "average_precision"])
def test_a_label_that_is_missing_counts_nowhere(name: str) -> None:
    golds, preds, probs = (array.astype(float) for array in several(1, 30, 2))
    golds[20:, 0] = math.nan
    metric = METRICS.build(name)
    columns = [
        metric(golds[:20, :1], preds[:20, :1], probs[:20, :1]),
        metric(golds[:, 1:], preds[:, 1:], probs[:, 1:]),
    ]
    weights = [20, 30] if name == "hamming_loss" else None
    assert metric(golds, preds, probs) == pytest.approx(np.average(columns, weights=weights))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(5, 40), k=st.integers(2, 5))
@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_and_jaccard_agree_with_scikit_learn(weights: str, seed: int, n: int, k: int) -> None:
    golds, preds, probs = case(seed, n, k)
    golds[:2], preds[:2] = (0, k - 1), (k - 1, 0)
    kappa = METRICS.build({"type": "cohen_kappa", "weights": weights})
    expected = sk.cohen_kappa_score(
        golds, preds, labels=range(k), weights=None if weights == "none" else weights
    )
    assert kappa(golds, preds, probs) == pytest.approx(expected, abs=1e-5)
    expected = sk.jaccard_score(golds, preds, average="macro", labels=np.union1d(golds, preds))
    assert METRICS.build("jaccard")(golds, preds, probs) == pytest.approx(expected)


VALUES: dict[str, Callable[[Array, Array], float]] = {
    "rmse": sk.root_mean_squared_error,
    "mape": sk.mean_absolute_percentage_error,
    "smape": lambda g, p: float(np.mean(2 * np.abs(g - p) / (np.abs(g) + np.abs(p)))),
    "explained_variance": sk.explained_variance_score,
    "poisson_deviance": sk.mean_poisson_deviance,
    "pearson": lambda g, p: stats.pearsonr(g, p).statistic,
    "spearman": lambda g, p: stats.spearmanr(g, p).statistic,
}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 60))
@pytest.mark.parametrize("name", VALUES)
def test_metrics_of_values_agree_with_others(name: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    golds, preds = rng.integers(1, 6, n).astype(float), rng.integers(2, 12, n) / 2
    golds[:2], preds[:2] = (1, 2), (0.5, 3)
    assert METRICS.build(name)(golds, preds, preds) == pytest.approx(VALUES[name](golds, preds), rel=1e-5)
    # A column of its own, with labels missing: the mean of both, or all of them together.
    twice = np.stack([golds, golds], axis=1), np.stack([preds, preds], axis=1)
    twice[0][2, 1] = math.nan
    rest = np.arange(n) != 2
    columns = VALUES[name](golds, preds), VALUES[name](golds[rest], preds[rest])
    both = np.concatenate([golds, golds[rest]]), np.concatenate([preds, preds[rest]])
    by_column = name in {"explained_variance", "pearson", "spearman"}
    expected = np.mean(columns) if by_column else VALUES[name](*both)
    assert METRICS.build(name)(*twice, twice[1]) == pytest.approx(expected, rel=1e-5)


def test_ranks_of_many_ties_are_exact() -> None:
    golds = np.repeat([0.0, 1.0], 100_000)
    assert METRICS.build("spearman")(golds, golds + 1, golds) == pytest.approx(1.0)


def test_calibration_error_is_how_far_bins_are_off() -> None:
    golds, positive = np.array([1, 0, 1, 1]), np.array([0.1, 0.15, 0.9, 0.95])
    expected = pytest.approx((abs(0.5 - 0.125) + abs(1 - 0.925)) / 2)
    calibration = METRICS.build({"type": "calibration_error", "n_bins": 2})
    assert calibration(golds, golds, positive) == expected
    assert calibration(golds, golds, np.stack([1 - positive, positive], axis=1)) == expected
    worst = METRICS.build({"type": "calibration_error", "n_bins": 2, "norm": "max"})
    assert worst(golds, golds, positive) == pytest.approx(0.375)
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2]])
    assert calibration(np.array([0, 2]), golds[:2], probs) == pytest.approx(0.25)


def binned_by_hand(yes: Array, probs: Array, n_bins: int) -> float:
    """How far the bins of probabilities ``[n]`` are off, one after the other."""
    total = 0.0
    for i in range(n_bins):
        within = (probs > i / n_bins) & (probs <= (i + 1) / n_bins)
        total += abs((yes[within] - probs[within]).sum())
    return total / len(yes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), k=st.integers(2, 4), n_bins=st.integers(1, 15))
def test_classwise_calibration_error_is_the_mean_of_each_classs_own(
    seed: int, n: int, k: int, n_bins: int
) -> None:
    rng = np.random.default_rng(seed)
    probs, golds = rng.dirichlet(np.ones(k), n), rng.integers(0, k, n)
    classwise = METRICS.build({"type": "classwise_calibration_error", "n_bins": n_bins})
    by_class = [binned_by_hand(golds == y, probs[:, y], n_bins) for y in range(k)]
    assert classwise(golds, golds, probs) == pytest.approx(np.mean(by_class), abs=1e-6)
    several = rng.integers(0, 2, (n, k)).astype(float)
    several[rng.random((n, k)) < 0.3] = math.nan
    several[0] = 1
    given = ~np.isnan(several)
    by_label = [binned_by_hand(several[g, y], probs[g, y], n_bins) for y, g in enumerate(given.T)]
    assert classwise(several, several, probs) == pytest.approx(np.mean(by_label), abs=1e-6)


def test_classwise_calibration_error_of_one_probability_is_calibration_error() -> None:
    golds, positive = np.array([1, 0, 1, 1]), np.array([0.1, 0.15, 0.9, 0.95])
    names = ("classwise_calibration_error", "calibration_error")
    for probs in (positive, positive[:, None]):
        classwise, plain = (METRICS.build(name)(golds, golds, probs) for name in names)
        assert classwise == plain
    two = np.stack([1 - positive, positive], axis=1)
    assert METRICS.build(names[0])(golds, golds, two) == pytest.approx(plain)
    with pytest.raises(SpecError, match="between 1 and 10,000"):
        METRICS.build({"type": "classwise_calibration_error", "n_bins": 0})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 40), several=st.booleans())
def test_pinball_agrees_with_scikit_learn(seed: int, n: int, several: bool) -> None:
    rng = np.random.default_rng(seed)
    golds, quantiles = rng.normal(size=(n, 2) if several else n), [0.2, 0.7]
    values = np.sort(rng.normal(size=(*golds.shape, 2)), axis=-1)
    expected = np.mean(
        [
            sk.mean_pinball_loss(golds.ravel(), values[..., i].ravel(), alpha=q)
            for i, q in enumerate(quantiles)
        ]
    )
    pinball = METRICS.build({"type": "pinball", "quantiles": quantiles})
    assert pinball(golds, golds, values) == pytest.approx(expected)


def test_interval_coverage_is_the_share_of_labels_inside() -> None:
    golds = np.array([1.0, 2.0, 5.0, 0.0])
    values = np.array([[0.0, 1.0, 1.0], [0, 1, 3], [0, 1, 4], [1, 2, 3]])
    coverage = METRICS.build("interval_coverage")
    assert coverage(golds, golds, values) == 0.5
    several_golds = np.array([[1.0, math.nan], [9.0, 1.0]])
    assert coverage(several_golds, golds, np.stack([values[:2], values[1:3]], axis=1)) == pytest.approx(2 / 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 30), k=st.sampled_from([None, 1, 3]))
def test_ndcg_agrees_with_scikit_learn_ties_groups_and_all(seed: int, n: int, k: int | None) -> None:
    rng = np.random.default_rng(seed)
    groups, relevances, scores = rng.integers(5, 8, n), rng.integers(0, 4, n), rng.integers(0, 4, n) / 2
    relevances[0] = 1
    ndcg = METRICS.build({"type": "ndcg", "k": k})

    def expected(which: Array) -> float:
        if which.sum() == 1:
            return 1.0  # scikit-learn has no value for one example
        return sk.ndcg_score([relevances[which]], [scores[which]], k=k)

    assert ndcg(relevances, scores, scores) == pytest.approx(expected(np.full(n, True)))
    within = [groups == g for g in np.unique(groups)]
    of_groups = np.mean([expected(which) for which in within if relevances[which].any()])
    labels = np.stack([groups, relevances], axis=1).astype(float)
    assert ndcg(labels, scores, scores) == pytest.approx(of_groups)
    labelled = np.concatenate([labels, [[groups[0], math.nan]]])
    assert ndcg(labelled, np.append(scores, 9.0), scores) == pytest.approx(of_groups)


def test_metrics_say_which_way_is_better() -> None:
    lower = {
        "calibration_error",
        "classwise_calibration_error",
        "hamming_loss",
        "log_loss",
        "mae",
        "mape",
        "mse",
        "pinball",
        "poisson_deviance",
        "rmse",
        "smape",
    }
    ways = {name: METRICS.build(name).higher_is_better for name in METRICS.entries}
    assert {name for name, way in ways.items() if way is False} == lower
    assert {name for name, way in ways.items() if way is None} == {"interval_coverage"}
