"""Metrics of values against labels that are numbers."""

from __future__ import annotations

import numpy as np

from mtl_core.scoring.metrics.metric import Array, Metric, UndefinedMetricError, check_same_shape, given


class MeanSquared(Metric):
    """Mean squared difference of values and labels."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        return float(np.nanmean(np.square(_differences(golds, preds))))


class MeanAbsolute(Metric):
    """Mean absolute difference of values and labels."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        return float(np.nanmean(np.abs(_differences(golds, preds))))


class R2(Metric):
    """Coefficient of determination: 1 minus squared error over the labels' variance, columns together."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the coefficient, at most 1."""
        errors, labels = _differences(golds, preds), golds.astype(float)
        # A column without any label has no mean, and adds nothing to either sum.
        counts = np.maximum(given(golds).sum(axis=0), 1)
        variance = np.nansum(np.square(labels - np.nansum(labels, axis=0) / counts))
        if variance == 0:
            raise UndefinedMetricError("r2 needs labels that differ")
        return float(1 - np.nansum(np.square(errors)) / variance)


def _differences(golds: Array, preds: Array) -> Array:
    check_same_shape(golds, preds)
    return golds.astype(float) - preds.astype(float)
