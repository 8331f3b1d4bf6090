"""Metrics of predicted quantiles against labels that are numbers."""

from __future__ import annotations

import numpy as np

from mtl_core.quantiles import check_quantiles
from mtl_core.scoring.metrics.metric import Array, Metric, UndefinedMetricError, given


class MeanPinball(Metric):
    """Mean pinball loss of the values of quantiles, over labels and quantiles.

    Args:
        quantiles: Their probabilities, rising, each above 0 and below 1, as the task's output has them; default 0.1,
            0.5 and 0.9.
    """

    inputs = ("golds", "probs")
    of_classes = False
    higher_is_better = False

    def __init__(self, quantiles: list[float] = [0.1, 0.5, 0.9]) -> None:  # noqa: B006 It is only read.
        check_quantiles(quantiles)
        self.levels = np.array(quantiles)

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0, in their unit."""
        _check_shapes(golds, probs, len(self.levels))
        errors = golds.astype(float)[..., None] - probs.astype(float)
        return float(np.nanmean(np.maximum(self.levels * errors, (self.levels - 1) * errors)))


class IntervalCoverage(Metric):
    """Share of labels between the values of the lowest and the highest quantile.

    It should be what lies between their probabilities, 0.8 for 0.1 and 0.9: more is no better.
    """

    inputs = ("golds", "probs")
    of_classes = False
    higher_is_better = None

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share of the labels given, in [0, 1]."""
        _check_shapes(golds, probs, probs.shape[-1])
        within = (probs[..., 0] <= golds) & (golds <= probs[..., -1])
        return float(within[given(golds)].mean())


def _check_shapes(golds: Array, probs: Array, n_quantiles: int) -> None:
    if probs.shape != (*golds.shape, n_quantiles):
        raise UndefinedMetricError(
            f"this metric is for {n_quantiles} quantiles of each label, not for values of {list(probs.shape)}"
            f" and labels of {list(golds.shape)}"
        )
