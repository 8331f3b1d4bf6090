"""Metrics of predicted classes against labelled ones."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from mtl_core.data import UNLABELLED
from mtl_core.scoring.metrics.metric import (
    Array,
    Metric,
    UndefinedMetricError,
    check_same_shape,
    given,
    ratio,
    through_torchmetrics,
)

# Its table has their square of entries.
_MAX_KAPPA_CLASSES = 1_000


class Accuracy(Metric):
    """Share of examples whose prediction equals the label (for multi-label tasks: all of its labels)."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        check_same_shape(golds, preds)
        right = golds == preds
        if golds.dtype.kind == "f":
            right |= ~given(golds)
        if right.ndim > 1:
            right = right.reshape(len(golds), -1).all(axis=1)
        return np.count_nonzero(right) / len(right)


class BalancedAccuracy(Metric):
    """Mean of the recalls of the classes that occur among the labels."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        confusion = _confusion(golds, preds)
        support = confusion.sum(axis=1)
        return float((confusion.diagonal()[support > 0] / support[support > 0]).mean())


class Coverage(Metric):
    """Share of examples, labelled or not, for which there is a prediction rather than -1."""

    inputs = ("preds",)
    leaves_out = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        return float((preds != UNLABELLED).reshape(len(preds), -1).any(axis=1).mean())


class FBeta(Metric):
    """F-beta of one class of two: the weighted harmonic mean of its precision and recall.

    Args:
        beta: Weight of recall against precision; default 1, above 0.
        pos_label: The class it is about; default 1.
    """

    def __init__(self, beta: float = 1.0, pos_label: int = 1) -> None:
        if beta <= 0:
            raise ValueError("beta must be above 0")
        self.beta = beta
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return F-beta, in [0, 1]; 0 where the class is neither labelled nor predicted."""
        tp, fp, fn = _binary_counts(golds, preds, self.pos_label)
        weight = self.beta**2
        return ratio((1 + weight) * tp, (1 + weight) * tp + weight * fn + fp)


class F1(FBeta):
    """F1 of one class of two: the harmonic mean of its precision and recall.

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        super().__init__(1.0, pos_label)


class Precision(Metric):
    """Share of the examples predicted as one class of two that are of it (0 when none is predicted).

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the precision, in [0, 1]."""
        tp, fp, _ = _binary_counts(golds, preds, self.pos_label)
        return ratio(tp, tp + fp)


class Recall(Metric):
    """Share of the examples of one class of two that are predicted as it (0 when there is none).

    Args:
        pos_label: The class it is about; default 1.
    """

    def __init__(self, pos_label: int = 1) -> None:
        self.pos_label = pos_label

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the recall, in [0, 1]."""
        tp, _, fn = _binary_counts(golds, preds, self.pos_label)
        return ratio(tp, tp + fn)


class MacroF1(Metric):
    """Mean of the F1 of all classes, or labels where an example has several, that are labelled or predicted at all."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        hits, labelled, predicted = _counts_by_class(golds, preds)
        return _mean_share(2 * hits, labelled + predicted)


class Jaccard(Metric):
    """Mean of the overlap of what is labelled and what is predicted, over the same classes or labels as ``f1_macro``.

    The overlap is the number of examples that are both over the number that are either.
    """

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        hits, labelled, predicted = _counts_by_class(golds, preds)
        return _mean_share(hits, labelled + predicted - hits)


class HammingLoss(Metric):
    """Share of labels that are predicted wrongly, each label of an example that has several counting by itself."""

    higher_is_better = False

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share of the labels given, in [0, 1]."""
        check_same_shape(golds, preds)
        return float((golds != preds)[given(golds)].mean())


class MicroF1(Metric):
    """F1 over the pooled decisions of all classes; with one label an example it equals accuracy."""

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the pooled F1, in [0, 1]."""
        check_same_shape(golds, preds)
        if golds.ndim == 2:
            predicted = (preds == 1) & given(golds)
            hits = float(((golds == 1) & predicted).sum())
            return ratio(2 * hits, float((golds == 1).sum() + predicted.sum()))
        return float((golds == preds).mean())


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
        return ratio(correct * n - predicted @ actual, np.sqrt(spread))


class CohenKappa(Metric):
    """Agreement of labels and predictions beyond what chance would give (Cohen, 1960).

    Args:
        weights: What an error costs: ``"none"``, all alike, or by how many classes it is off, ``"linear"`` or
            ``"quadratic"``, for classes that have an order; default ``"none"``.
    """

    def __init__(self, weights: Literal["none", "linear", "quadratic"] = "none") -> None:
        self.weights = weights

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return kappa, at most 1; 0 is chance."""
        check_same_shape(golds, preds)
        classes = np.stack([preds, golds]).astype(np.int64)
        if classes.ndim != 2 or classes.min() < 0 or classes.max() >= _MAX_KAPPA_CLASSES:
            raise UndefinedMetricError(
                f"cohen_kappa is for one class an example, of {_MAX_KAPPA_CLASSES:,} at most"
            )
        sides, k = torch.from_numpy(classes), max(2, int(classes.max()) + 1)
        return through_torchmetrics(
            lambda f: f.cohen_kappa(*sides, task="multiclass", num_classes=k, weights=self.weights),
            "cohen_kappa",
        )


def _binary_counts(golds: Array, preds: Array, pos_label: int) -> tuple[float, float, float]:
    """Return true positives, false positives, false negatives."""
    if golds.ndim != 1 or preds.ndim != 1:
        raise UndefinedMetricError("this metric is for one class an example")
    actual, predicted = golds == pos_label, preds == pos_label
    others = np.concatenate([golds[~actual], preds[~predicted]])
    if len(others) and others.min() != others.max():
        raise UndefinedMetricError(
            f"this metric is for two classes: there are {others.min()} and {others.max()} beside {pos_label}"
        )
    tp, fp = float((actual & predicted).sum()), float((~actual & predicted).sum())
    return tp, fp, float((actual & ~predicted).sum())


def _confusion(golds: Array, preds: Array) -> Array:
    """Return counts ``[k, k]``, labels down and predictions across."""
    if golds.ndim != 1 or preds.ndim != 1:
        raise UndefinedMetricError("this metric is for one class an example")
    _, codes = np.unique(np.concatenate([golds, preds]), return_inverse=True)
    k, n = int(codes.max()) + 1, len(golds)
    return np.bincount(codes[:n] * k + codes[n:], minlength=k * k).reshape(k, k)


def _counts_by_class(golds: Array, preds: Array) -> tuple[Array, Array, Array]:
    """Return how often each class ``[k]`` is labelled and predicted, labelled, and predicted."""
    if golds.ndim == 2:
        check_same_shape(golds, preds)
        labelled, predicted = golds == 1, (preds == 1) & given(golds)
        return (labelled & predicted).sum(axis=0), labelled.sum(axis=0), predicted.sum(axis=0)
    confusion = _confusion(golds, preds)
    return confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)


def _mean_share(numerators: Array, denominators: Array) -> float:
    """Return the mean of quotients ``[k]``, but for those with nothing to divide by."""
    occurs = denominators > 0
    if not occurs.any():
        raise UndefinedMetricError("this metric needs a label of 1, or a prediction")
    return float((numerators[occurs] / denominators[occurs]).mean())
