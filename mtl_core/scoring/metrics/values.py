"""Metrics of values against labels that are numbers."""

from __future__ import annotations

import math

import numpy as np
import torch

from mtl_core.scoring.metrics.metric import (
    Array,
    Metric,
    UndefinedMetricError,
    check_same_shape,
    columns,
    given,
    mean_ranks,
    through_torchmetrics,
)


class MeanSquared(Metric):
    """Mean squared difference of values and labels."""

    of_classes = False
    higher_is_better = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        return float(np.nanmean(np.square(_differences(golds, preds))))


class RootMeanSquared(MeanSquared):
    """Root of the mean squared difference of values and labels, in the labels' unit."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the root of the mean over the labels given, at least 0."""
        return math.sqrt(super().__call__(golds, preds, probs))


class MeanAbsolute(Metric):
    """Mean absolute difference of values and labels."""

    of_classes = False
    higher_is_better = False

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


class MeanAbsolutePercentage(Metric):
    """Mean absolute difference of values and labels as a share of the label: 0.1 is 10 %.

    Labels of 0 make it huge.
    """

    of_classes = False
    higher_is_better = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        values, labels = _flat(golds, preds)
        return through_torchmetrics(lambda f: f.mean_absolute_percentage_error(values, labels), "mape")


class SymmetricMeanAbsolutePercentage(Metric):
    """Mean absolute difference of values and labels as a share of the mean of their sizes, which 0 does not upset."""

    of_classes = False
    higher_is_better = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, in [0, 2]."""
        values, labels = _flat(golds, preds)
        return through_torchmetrics(
            lambda f: f.symmetric_mean_absolute_percentage_error(values, labels), "smape"
        )


class ExplainedVariance(Metric):
    """1 minus the variance of the errors over that of the labels; unlike r2, a constant error costs nothing."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the columns, at most 1."""

        def of_column(labels: Array, values: Array) -> float:
            _check_spread(labels, "labels")
            known = _tensors(values, labels)
            return through_torchmetrics(lambda f: f.explained_variance(*known), "explained_variance")

        return float(np.mean([of_column(*column) for column in columns(golds, preds)]))


class PoissonDeviance(Metric):
    """Mean deviance of rates above 0 from counts under a Poisson distribution: 0 where each rate is its count."""

    of_classes = False
    higher_is_better = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0, in twice nats."""
        values, labels = _flat(golds, preds)
        return through_torchmetrics(
            lambda f: f.tweedie_deviance_score(values, labels, power=1.0), "poisson_deviance"
        )


class Pearson(Metric):
    """Linear correlation of values and labels."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the columns, in [-1, 1]."""
        return float(np.mean([_correlation(*column) for column in columns(golds, preds)]))


class Spearman(Metric):
    """Correlation of the ranks of values and labels: 1 where they rise together, in whatever way."""

    of_classes = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the columns, in [-1, 1]."""
        # Not through torchmetrics, which sums ranks in 32 bits: too few for tens of thousands of ties.
        ranks = ([mean_ranks(side) for side in column] for column in columns(golds, preds))
        return float(np.mean([_correlation(*column) for column in ranks]))


def _correlation(labels: Array, values: Array) -> float:
    _check_spread(labels, "labels")
    _check_spread(values, "predictions")
    return float(np.corrcoef(labels.astype(float), values.astype(float))[0, 1])


def _check_spread(values: Array, what: str) -> None:
    if len(values) < 2 or values.min() == values.max():
        raise UndefinedMetricError(f"this metric needs {what} that differ")


def _flat(golds: Array, preds: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the predictions whose labels are given, and those labels, along one dimension."""
    check_same_shape(golds, preds)
    known = given(golds)
    return _tensors(preds[known], golds[known])


def _tensors(values: Array, labels: Array) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(values.astype(np.float64)), torch.from_numpy(labels.astype(np.float64))


def _differences(golds: Array, preds: Array) -> Array:
    check_same_shape(golds, preds)
    return golds.astype(float) - preds.astype(float)
