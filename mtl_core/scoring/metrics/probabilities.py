"""Metrics of probabilities: how they rank the examples, and how likely they make the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from mtl_core.scoring.metrics.metric import (
    Array,
    Metric,
    UndefinedMetricError,
    columns,
    mean_ranks,
    through_torchmetrics,
)


class TopK(Metric):
    """Share of examples whose label is among the ``k`` likeliest classes.

    Args:
        k: How many classes count; default 5, at least 1.
    """

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ValueError("k must be at least 1")
        self.k = k

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the share, in [0, 1]."""
        if golds.ndim != 1 or probs.ndim != 2 or probs.shape[1] < self.k:
            raise UndefinedMetricError(
                f"top-{self.k} is for one label an example and {self.k} or more classes"
            )
        likeliest = np.argpartition(-probs, self.k - 1, axis=1)[:, : self.k]
        return float((likeliest == golds[:, None]).any(axis=1).mean())


class LogLoss(Metric):
    """Mean negative log-probability (nats) of the labelled class, probabilities clipped at 1e-15."""

    inputs = ("golds", "probs")
    higher_is_better = False

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


class RocAuc(Metric):
    """Area under the ROC curve for two classes: the chance that a positive outranks a negative, ties half.

    With several labels an example, the mean of the areas of those that occur as both 0 and 1.
    """

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the area, in [0, 1]."""

        def of_label(labels: Array, score: Array) -> float | None:
            positive = labels == 1
            return None if positive.all() or not positive.any() else _area(positive, score)

        return _mean_by_label(golds, probs, of_label, "roc_auc needs labels of both classes")


class RocAucOneVersusRest(Metric):
    """Mean of the areas under the ROC curves of each class against all others, classes alike."""

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean, in [0, 1]."""
        if golds.ndim != 1 or probs.ndim != 2 or probs.shape[1] < 2:
            raise UndefinedMetricError("roc_auc_ovr is for one label an example and two or more classes")
        k = probs.shape[1]
        if np.unique(golds).tolist() != list(range(k)):
            raise UndefinedMetricError(f"roc_auc_ovr needs labels of each of the {k} classes, and no others")
        return float(np.mean([_area(golds == y, probs[:, y]) for y in range(k)]))


class AveragePrecision(Metric):
    """Area under the steps of precision over recall for two classes; equal probabilities are one step.

    With several labels an example, the mean of the areas of those that occur as 1.
    """

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the area, in [0, 1]."""

        def of_label(labels: Array, score: Array) -> float | None:
            positive = labels == 1
            if not positive.any():
                return None
            order = np.argsort(-score, kind="stable")
            ranked = score[order]
            # How many examples have at least each distinct probability.
            counts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1
            hits = positive[order].cumsum()[counts - 1]
            return float((np.diff(hits, prepend=0) * (hits / counts)).sum() / positive.sum())

        return _mean_by_label(golds, probs, of_label, "average_precision needs labels of class 1")


class CalibrationError(Metric):
    """How far probabilities are from the shares of examples that they come true for, examples binned by them.

    With two classes the probability is that of class 1, with more it is that of the likeliest class.

    Source: Naeini, Cooper and Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian Binning, 2015.

    Args:
        n_bins: How many bins of equal width the probabilities fall into; default 15, range 1 to 10,000.
        norm: ``"l1"``, the mean difference of an example, ``"l2"``, the root of its mean square, or ``"max"``, that of
            the worst bin; default ``"l1"``.
    """

    inputs = ("golds", "probs")
    higher_is_better = False

    def __init__(self, n_bins: int = 15, norm: Literal["l1", "l2", "max"] = "l1") -> None:
        self.n_bins = _checked_bins(n_bins)
        self.norm: Literal["l1", "l2", "max"] = norm

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the error, in [0, 1]."""
        if probs.ndim == 2 and probs.shape[1] > 2:
            if golds.ndim != 1 or golds.min() < 0 or golds.max() >= probs.shape[1]:
                raise UndefinedMetricError("calibration_error needs one label an example, with a probability")
            labels, told, k = golds, probs, probs.shape[1]
        else:
            labels, told, k = _two_class(golds), _positive_score(probs), None
        return _binned_error("calibration_error", labels, told, k, self.n_bins, self.norm)


class ClasswiseCalibrationError(Metric):
    """Mean over the classes, or labels, of how far the probabilities of each are from the shares that come true.

    Each class's own probabilities are binned against all other classes, so that those of unlikely classes count too;
    of several labels an example, those that are given. With one probability an example it is ``calibration_error``.

    Source: Kull et al., Beyond Temperature Scaling: Obtaining Well-Calibrated Multiclass Probabilities with Dirichlet
    Calibration, 2019; Nixon et al., Measuring Calibration in Deep Learning, 2019, who call it static calibration error.

    Args:
        n_bins: How many bins of equal width the probabilities fall into; default 15, range 1 to 10,000.
    """

    inputs = ("golds", "probs")
    higher_is_better = False

    def __init__(self, n_bins: int = 15) -> None:
        self.n_bins = _checked_bins(n_bins)

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the error, in [0, 1]."""
        name = "classwise_calibration_error"

        def of_label(labels: Array, told: Array) -> float:
            return _binned_error(name, labels, told, None, self.n_bins, "l1")

        if golds.ndim == 1 and probs.ndim == 2 and probs.shape[1] > 1:
            k = probs.shape[1]
            if golds.min() < 0 or golds.max() >= k:
                raise UndefinedMetricError(f"{name} needs labels that have a probability")
            return float(np.mean([of_label(golds == y, probs[:, y]) for y in range(k)]))
        return _mean_by_label(golds, probs, of_label, f"{name} needs labels")


def _checked_bins(n_bins: int) -> int:
    if not 1 <= n_bins <= 10_000:
        raise ValueError("n_bins must be between 1 and 10,000")
    return n_bins


def _binned_error(
    name: str, labels: Array, told: Array, k: int | None, n_bins: int, norm: Literal["l1", "l2", "max"]
) -> float:
    """Return the calibration error of probabilities ``[n]`` of label 1, or ``[n, k]`` of ``k`` classes."""
    sides = torch.from_numpy(told.astype(np.float64)), torch.from_numpy(labels.astype(np.int64))
    task = {"task": "binary"} if k is None else {"task": "multiclass", "num_classes": k}
    return through_torchmetrics(lambda f: f.calibration_error(*sides, n_bins=n_bins, norm=norm, **task), name)


def _mean_by_label(
    golds: Array, probs: Array, of_label: Callable[[Array, Array], float | None], why_none: str
) -> float:
    """Return the mean over the labels of an example, one or several, that have a value."""
    pairs = columns(golds, probs) if golds.ndim == 2 else [(golds, _positive_score(probs))]
    values = [of_label(_two_class(labels), score) for labels, score in pairs]
    known = [value for value in values if value is not None]
    if not known:
        raise UndefinedMetricError(why_none)
    return float(np.mean(known))


def _area(positive: Array, score: Array) -> float:
    """Return the area under the ROC curve of scores ``[n]``, of which some but not all are of positives."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    rank_sum = mean_ranks(score)[positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _two_class(labels: Array) -> Array:
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise UndefinedMetricError("this metric is for the two classes 0 and 1")
    return labels


def _positive_score(probs: Array) -> Array:
    """Return the score of class 1, ``[n]``, from probabilities ``[n, 2]``, ``[n, 1]`` or ``[n]``."""
    if probs.ndim > 2 or (probs.ndim == 2 and probs.shape[1] > 2):
        raise UndefinedMetricError("this metric is for two classes")
    return probs[:, -1] if probs.ndim == 2 else probs
