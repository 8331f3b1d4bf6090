from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtl_core import TaskloomError
from mtl_core.scoring.metric_score import metric_score
from mtl_core.scoring.metrics import UndefinedMetricError

GOLDS, PREDS = np.array([1, 1, 1, 2, 2]), np.array([1, 0, 1, 2, 1])
PROBS = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("filter_dict", "expected"),
    [
        (None, 0.6),
        ({"preds": [0]}, 0.75),
        ({"golds": [1]}, 0.5),
        ({"golds": [2], "preds": [0]}, 1.0),
        ({"golds": [2], "preds": []}, 2 / 3),
    ],
)
def test_examples_with_a_label_to_filter_do_not_count(filter_dict: Any, expected: float) -> None:
    assert metric_score(GOLDS, PREDS, metric="accuracy", filter_dict=filter_dict) == pytest.approx(expected)


def test_labels_may_be_columns_of_whole_numbers_of_any_dtype() -> None:
    assert metric_score(GOLDS[:, None], PREDS.astype(float)) == pytest.approx(0.6)
    as_tensor: Any = torch.from_numpy(GOLDS).float()
    assert metric_score(as_tensor, PREDS) == pytest.approx(0.6)


def test_a_metric_takes_its_arguments_and_only_what_it_needs() -> None:
    assert metric_score(np.array([1, 2, 2]), np.array([1, 1, 2]), metric="recall", pos_label=2) == 0.5
    assert metric_score(preds=np.array([-1, 1]), metric="coverage") == 0.5
    assert metric_score(np.array([0, 1, 1]), probs=PROBS, metric="roc_auc") == 1.0
    assert metric_score(np.array([0.5, 1.5]), np.array([1.0, 1.5]), metric="mae") == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "acuracy"}, "'acuracy' is no metric"),
        ({"metric": "f1", "beta": 2}, "is no argument of f1"),
        ({"metric": "roc_auc"}, "metric 'roc_auc' needs probs"),
        ({"preds": None}, "metric 'accuracy' needs preds"),
        ({"preds": PREDS + 0.5}, "not 1.5"),
        ({"preds": np.array([GOLDS, PREDS])}, "cannot be flattened"),
        ({"filter_dict": {"gold": [-1]}}, "cannot filter by 'gold'"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        metric_score(**({"golds": GOLDS, "preds": PREDS} | arguments))


def test_there_is_no_score_of_nothing() -> None:
    with pytest.raises(UndefinedMetricError, match="no example is left"):
        metric_score(GOLDS, PREDS, filter_dict={"golds": [1, 2]})
