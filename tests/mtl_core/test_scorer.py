from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_core import Score, Scorer, SpecError, TaskloomError

PROBS = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
PREDS = PROBS.argmax(axis=1)


def test_metrics_are_reported_under_their_names() -> None:
    scorer = Scorer(
        metrics=["accuracy", {"type": "fbeta", "beta": 2}], custom_metric_funcs={"n": lambda g, p, q: len(g)}
    )
    assert scorer.score(np.array([1, 0, 0, -1]), PREDS, PROBS) == {
        "accuracy": pytest.approx(2 / 3),
        "fbeta": pytest.approx(5 / 6),
        "n": 3,
    }


def test_another_label_may_mean_not_labelled_or_none() -> None:
    golds = np.array([1, 0, 9, 9])
    assert Scorer(["accuracy"], abstain_label=9).score(golds, PREDS, PROBS) == {"accuracy": 1.0}
    assert Scorer(["accuracy"], abstain_label=None).score(golds, PREDS, PROBS) == {"accuracy": 0.5}


def test_distributions_are_scored_against_their_likeliest_class() -> None:
    golds = np.array([[0.1, 0.9], [0.7, 0.3], [0.8, 0.2], [-1, -1]])
    assert Scorer(["accuracy"]).score(golds, PREDS, PROBS) == {"accuracy": pytest.approx(2 / 3)}


def test_of_several_labels_those_missing_do_not_count() -> None:
    golds = np.array([[1, -1], [-1, -1], [0, 1]])
    preds = np.array([[1, 1], [0, 0], [1, 1]])
    (row,) = Scorer(["f1_micro"]).scores(golds, preds, preds, "t", "d", "s")
    assert (row.value, row.n) == (pytest.approx(4 / 5), 2)


def test_an_undefined_score_is_nan_with_the_reason() -> None:
    (row,) = Scorer(["roc_auc"]).scores(np.array([1, 1, 1, -1]), PREDS, PROBS, "t", "d", "test")
    assert math.isnan(row.value)
    assert row.reason == "roc_auc needs labels of both classes"
    assert row.key == "t/d/test/roc_auc"


def test_a_value_that_is_not_finite_says_so() -> None:
    scorer = Scorer(custom_metric_funcs={"odd": lambda g, p, q: math.inf})
    (row,) = scorer.scores(PREDS, PREDS, PROBS, "t", "d", "s")
    assert row == Score("t", "d", "s", "odd", math.inf, 4, "the metric's value is inf")


def test_unknown_and_doubled_metrics_are_refused() -> None:
    with pytest.raises(SpecError, match="'acuracy' is no metric; did you mean accuracy"):
        Scorer(["acuracy"])
    with pytest.raises(TaskloomError, match="two metrics are named 'accuracy'"):
        Scorer(["accuracy"], custom_metric_funcs={"accuracy": lambda g, p, q: 0.0})
