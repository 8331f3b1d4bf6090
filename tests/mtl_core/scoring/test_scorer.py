from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_core import Score, Scorer, SpecError, TaskloomError
from mtl_core.scoring.metrics import Array

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


def test_a_custom_metric_may_answer_several_numbers() -> None:
    scorer = Scorer(["accuracy"], {"counts": lambda g, p, q: {"right": (g == p).sum(), "n": len(g)}})
    golds = np.array([1, 0, 0, -1])
    assert scorer.score(golds, PREDS, PROBS) == {"accuracy": pytest.approx(2 / 3), "right": 2, "n": 3}
    rows = scorer.scores(golds, PREDS, PROBS, "t", "d", "s")
    assert [row.key for row in rows] == ["t/d/s/accuracy", "t/d/s/right", "t/d/s/n"]
    (_, row) = scorer.scores(golds[3:], PREDS[3:], PROBS[3:], "t", "d", "s")
    assert (row.metric, row.n, row.reason) == ("counts", 0, "no example is labelled")


def test_numbers_of_custom_metrics_under_a_name_that_is_taken_are_refused() -> None:
    scorer = Scorer(["accuracy"], {"both": lambda g, p, q: {"accuracy": 1.0}})
    with pytest.raises(TaskloomError, match="two metrics are named 'accuracy'"):
        scorer.score(PREDS, PREDS, PROBS)


def test_abstaining_predictions_count_for_coverage_alone() -> None:
    golds, preds = np.array([1, 0, 0, -1]), np.array([1, -1, 1, 1])
    rows = Scorer(["accuracy", "coverage"]).scores(golds, preds, PROBS, "t", "d", "s")
    assert [(row.value, row.n) for row in rows] == [(0.5, 2), (0.75, 4)]
    assert Scorer(["accuracy"], abstain_label=None).score(golds, preds) == {"accuracy": 0.25}


def test_a_metric_without_any_prediction_says_so() -> None:
    (row,) = Scorer(["accuracy"]).scores(PREDS, np.full(4, -1), PROBS, "t", "d", "s")
    assert math.isnan(row.value)
    assert (row.n, row.reason) == (0, "every prediction abstains")


def test_a_value_of_minus_one_is_no_abstaining_prediction() -> None:
    golds, values = np.array([0.0, 1.0]), np.array([-1.0, 1.0])
    assert Scorer(["mse"]).score(golds, values, values) == {"mse": 0.5}


def test_predictions_or_probabilities_may_be_missing_where_no_metric_needs_them() -> None:
    golds = np.array([1, 0, 1, -1])
    assert Scorer(["accuracy"]).score(golds, PREDS) == Scorer(["accuracy"]).score(golds, PREDS, PROBS)
    assert Scorer(["roc_auc"]).score(golds, probs=PROBS) == {"roc_auc": 1.0}
    with pytest.raises(TaskloomError, match="metric 'accuracy' needs preds"):
        Scorer(["accuracy"]).score(golds, probs=PROBS)
    with pytest.raises(TaskloomError, match="metric 'log_loss' needs probs"):
        Scorer(["log_loss"]).score(golds, PREDS)


def test_no_labels_at_all_are_refused_as_scores_and_rows_without_value() -> None:
    nothing = np.empty(0)
    with pytest.raises(TaskloomError, match="no labels to score"):
        Scorer(["accuracy"]).score(nothing, nothing, nothing)
    (row,) = Scorer(["accuracy"]).scores(nothing, nothing, nothing, "t", "d", "s")
    assert (row.n, row.reason) == (0, "no example is labelled")


def test_columns_of_labels_and_predictions_are_as_flat_ones() -> None:
    golds = np.array([1, 0, 1, -1])
    assert Scorer(["accuracy", "f1"]).score(golds[:, None], PREDS[:, None], PROBS) == Scorer(
        ["accuracy", "f1"]
    ).score(golds, PREDS, PROBS)


def slices() -> Array:
    return np.array([(1, 0), (1, 0), (-1, 0), (0, 0)], dtype=[("first", int), ("nobody", int)])


def test_slices_are_scored_beside_all_examples() -> None:
    scores = Scorer(["accuracy", "coverage"]).score_slices(slices(), np.array([1, 1, 0, -1]), PREDS, PROBS)
    assert scores["overall"] == {"accuracy": pytest.approx(1 / 3), "coverage": 1.0}
    assert scores["first"] == {"accuracy": 0.5, "coverage": 1.0}
    assert list(scores) == ["overall", "first", "nobody"]
    assert all(math.isnan(value) for value in scores["nobody"].values())


def test_slices_scores_may_be_a_table() -> None:
    table = Scorer(["accuracy"]).score_slices(
        slices(), np.array([1, 1, 0, 0]), PREDS, PROBS, as_dataframe=True
    )
    assert table["accuracy"]["overall"] == 0.5
    assert table.shape == (3, 1)


def test_slices_of_other_examples_or_without_names_are_refused() -> None:
    with pytest.raises(TaskloomError, match=r"one length, not .'S': 4, 'golds': 1"):
        Scorer().score_slices(slices(), PREDS[:1], PREDS, PROBS)
    for S in (np.ones(4), slices().astype([("first", int), ("overall", int)])):
        with pytest.raises(TaskloomError, match="a named column for each slice"):
            Scorer().score_slices(S, PREDS, PREDS, PROBS)


def test_a_scorer_says_which_arrays_its_metrics_look_at() -> None:
    assert Scorer(["accuracy", "coverage"]).inputs == {"golds", "preds"}
    assert Scorer(["accuracy", "log_loss"]).inputs == {"golds", "preds", "probs"}
    own = Scorer(custom_metric_funcs={"n": lambda g, p, q: len(g)})
    assert own.inputs == {"golds", "preds", "probs"}
    assert not own.is_of_catalogue
    assert Scorer(["f1"]).is_of_catalogue
