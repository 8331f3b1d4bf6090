"""Scores and losses of the validation split, by the keys under which they are logged."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_core.data import DictDataLoader
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.evaluation import LOSS_METRIC


def validate(model: MultitaskClassifier, loaders: Sequence[DictDataLoader], split: str) -> dict[str, float]:
    """Score every task, and its loss, on a split, in one pass.

    Args:
        model: The model.
        loaders: The split's loaders.
        split: Its name.

    Returns:
        Values by ``task/dataset/split/metric``, the losses of the catalogue under the metric ``loss``, and as
        ``model/all/<split>/loss`` their mean over all labelled examples of all tasks; NaN where undefined.
    """
    scores = model.evaluate(loaders, with_loss=True)
    metrics = {score.key: score.value for score in scores}
    # A label set that only looks at another task's path again, as a slice does, would count its examples twice.
    losses = [
        score for score in scores if score.metric == LOSS_METRIC and score.task in model.tasks and score.n
    ]
    if losses:
        total = sum(score.value * score.n for score in losses)
        metrics[f"model/all/{split}/{LOSS_METRIC}"] = total / sum(score.n for score in losses)
    return metrics
