"""Metrics by name, over whole arrays of labels, predictions and probabilities.

Every metric is ``(golds, preds, probs) → float`` over labelled examples only: ``golds [n]`` or ``[n, k]``,
``preds [n]`` or ``[n, k]``, ``probs [n, k]`` (or values ``[n, …]`` for tasks without classes). Of an example
with several labels, those that are missing are NaN and count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_core.catalogue import Catalogue

Array = NDArray[Any]
MetricFunction = Callable[[Array, Array, Array], float]


class UndefinedMetricError(ValueError):
    """A metric has no value on these labels; the message says why."""


class Metric:
    """A metric ``(golds, preds, probs) → float``."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the metric's value.

        Raises:
            UndefinedMetricError: If it has none on these labels.
        """
        raise NotImplementedError


class Accuracy(Metric):
    """Share of examples whose prediction equals the label (for multi-label tasks: all of its labels)."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        _same_shape(golds, preds)
        right = (golds == preds) | ~_given(golds)
        return float(right.reshape(len(golds), -1).all(axis=1).mean())


class TopK(Metric):
    """Share of examples whose label is among the ``k`` likeliest classes.

    Args:
        k: How many classes count; default 5, at least 1.
    """

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError("k must be at least 1")
        self.k = k

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        if golds.ndim != 1 or probs.ndim != 2 or probs.shape[1] < self.k:
            raise UndefinedMetricError(
                f"top-{self.k} is for one label an example and {self.k} or more classes"
            )
        likeliest = np.argpartition(-probs, self.k - 1, axis=1)[:, : self.k]
        return float((likeliest == golds[:, None]).any(axis=1).mean())


class FBeta(Metric):
    """F-beta of class 1 against class 0: the weighted harmonic mean of precision and recall.

    Args:
        beta: Weight of recall against precision; default 1, above 0.
    """

    def __init__(self, beta: float = 1.0) -> None:
        if beta <= 0:
            raise ValueError("beta must be above 0")
        self.beta = beta

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return F-beta, in [0, 1]; 0 where class 1 is neither labelled nor predicted."""
        tp, fp, fn = _binary_counts(golds, preds)
        weight = self.beta**2
        return _ratio((1 + weight) * tp, (1 + weight) * tp + weight * fn + fp)


class Precision(Metric):
    """Share of examples predicted as class 1 that are of class 1 (0 when none is predicted)."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the precision, in [0, 1]."""
        tp, fp, _ = _binary_counts(golds, preds)
        return _ratio(tp, tp + fp)


class Recall(Metric):
    """Share of the examples of class 1 that are predicted as class 1 (0 when there is none)."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the recall, in [0, 1]."""
        tp, _, fn = _binary_counts(golds, preds)
        return _ratio(tp, tp + fn)


class F1(FBeta):
    """F1 of class 1 against class 0."""

    def __init__(self) -> None:
        super().__init__(beta=1.0)


class MacroF1(Metric):
    """Mean of the classes' F1, over the classes that occur among labels or predictions."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        confusion = _confusion(golds, preds)
        denominators = confusion.sum(axis=0) + confusion.sum(axis=1)
        occurs = denominators > 0
        return float((2 * confusion.diagonal()[occurs] / denominators[occurs]).mean())


class MicroF1(Metric):
    """F1 over the pooled decisions of all classes; with one label an example it equals accuracy."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the pooled F1, in [0, 1]."""
        _same_shape(golds, preds)
        if golds.ndim == 2:
            predicted = (preds == 1) & _given(golds)
            hits = float(((golds == 1) & predicted).sum())
            return _ratio(2 * hits, float((golds == 1).sum() + predicted.sum()))
        return float((golds == preds).mean())


class BalancedAccuracy(Metric):
    """Mean of the recalls of the classes that occur among the labels."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        confusion = _confusion(golds, preds)
        support = confusion.sum(axis=1)
        return float((confusion.diagonal()[support > 0] / support[support > 0]).mean())


class MatthewsCorrelation(Metric):
    """Correlation of labels and predictions over any number of classes; 0 where one is constant.

    Source: Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the correlation, in [-1, 1]."""
        confusion = _confusion(golds, preds).astype(float)
        n, correct = confusion.sum(), confusion.trace()
        predicted, actual = confusion.sum(axis=0), confusion.sum(axis=1)
        spread = (n**2 - (predicted**2).sum()) * (n**2 - (actual**2).sum())
        return _ratio(correct * n - predicted @ actual, np.sqrt(spread))


class RocAuc(Metric):
    """Area under the ROC curve for two classes: the chance that a positive outranks a negative, ties half."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the area, in [0, 1]."""
        positive = _two_class(golds) == 1
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if not n_positive or not n_negative:
            raise UndefinedMetricError("roc_auc needs labels of both classes")
        _, inverse, counts = np.unique(_positive_score(probs), return_inverse=True, return_counts=True)
        mean_rank = np.cumsum(counts) - (counts - 1) / 2
        rank_sum = mean_rank[inverse][positive].sum()
        return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


class LogLoss(Metric):
    """Mean negative log-probability (nats) of the labelled class, probabilities clipped at 1e-15."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, at least 0."""
        if golds.ndim != 1 or probs.ndim > 2:
            raise UndefinedMetricError("log_loss needs one label an example")
        if probs.ndim == 2 and probs.shape[1] > 1:
            if golds.max() >= probs.shape[1]:
                raise UndefinedMetricError(f"log_loss has no probability for label {golds.max()}")
            of_label = probs[np.arange(len(golds)), golds.astype(int)]
        else:
            score = _positive_score(probs)
            of_label = np.where(_two_class(golds) == 1, score, 1 - score)
        return float(-np.log(np.clip(of_label.astype(float), 1e-15, 1)).mean())


class MeanSquared(Metric):
    """Mean squared difference of values and labels."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        return float(np.nanmean(np.square(_differences(golds, preds))))


class MeanAbsolute(Metric):
    """Mean absolute difference of values and labels."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the labels given, at least 0."""
        return float(np.nanmean(np.abs(_differences(golds, preds))))


class R2(Metric):
    """Coefficient of determination: 1 minus squared error over the labels' variance, columns together."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the coefficient, at most 1."""
        errors, labels = _differences(golds, preds), golds.astype(float)
        # A column without any label has no mean, and adds nothing to either sum.
        counts = np.maximum(_given(golds).sum(axis=0), 1)
        variance = np.nansum(np.square(labels - np.nansum(labels, axis=0) / counts))
        if variance == 0:
            raise UndefinedMetricError("r2 needs labels that differ")
        return float(1 - np.nansum(np.square(errors)) / variance)


def _given(golds: Array) -> Array:
    return golds == golds  # noqa: PLR0124 NaN alone differs from itself, and integers have none.


def _same_shape(golds: Array, preds: Array) -> None:
    if golds.shape != preds.shape:
        raise UndefinedMetricError(
            f"predictions of shape {list(preds.shape)} do not match labels of {list(golds.shape)}"
        )


def _two_class(labels: Array) -> Array:
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise UndefinedMetricError("this metric is for the two classes 0 and 1")
    return labels


def _binary_counts(golds: Array, preds: Array) -> tuple[float, float, float]:
    """Return true positives, false positives, false negatives."""
    actual, predicted = _two_class(golds) == 1, _two_class(preds) == 1
    tp, fp = float((actual & predicted).sum()), float((~actual & predicted).sum())
    return tp, fp, float((actual & ~predicted).sum())


def _confusion(golds: Array, preds: Array) -> Array:
    """Return counts ``[k, k]``, labels down and predictions across."""
    if golds.ndim != 1 or preds.ndim != 1:
        raise UndefinedMetricError("this metric is for one class an example")
    _, codes = np.unique(np.concatenate([golds, preds]), return_inverse=True)
    k, n = int(codes.max()) + 1, len(golds)
    return np.bincount(codes[:n] * k + codes[n:], minlength=k * k).reshape(k, k)


def _positive_score(probs: Array) -> Array:
    """Return the score of class 1, ``[n]``, from probabilities ``[n, 2]``, ``[n, 1]`` or ``[n]``."""
    if probs.ndim > 2 or (probs.ndim == 2 and probs.shape[1] > 2):
        raise UndefinedMetricError("this metric is for two classes")
    return probs[:, -1] if probs.ndim == 2 else probs


def _differences(golds: Array, preds: Array) -> Array:
    _same_shape(golds, preds)
    return golds.astype(float) - preds.astype(float)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0


METRICS: Catalogue[Metric] = Catalogue(
    "metric",
    {
        "accuracy": Accuracy,
        "balanced_accuracy": BalancedAccuracy,
        "precision": Precision,
        "recall": Recall,
        "f1": F1,
        "f1_macro": MacroF1,
        "f1_micro": MicroF1,
        "fbeta": FBeta,
        "log_loss": LogLoss,
        "mae": MeanAbsolute,
        "matthews_corrcoef": MatthewsCorrelation,
        "mse": MeanSquared,
        "r2": R2,
        "roc_auc": RocAuc,
        "top_k": TopK,
    },
)
