"""Metrics of probabilities: how they rank the examples, and how likely they make the labels."""

from __future__ import annotations

import numpy as np

from mtl_core.scoring.metrics.metric import Array, Metric, UndefinedMetricError


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
    """Area under the ROC curve for two classes: the chance that a positive outranks a negative, ties half."""

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the area, in [0, 1]."""
        positive = _two_class(golds) == 1
        if positive.all() or not positive.any():
            raise UndefinedMetricError("roc_auc needs labels of both classes")
        return _area(positive, _positive_score(probs))


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
    """Area under the steps of precision over recall for two classes; equal probabilities are one step."""

    inputs = ("golds", "probs")

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the area, in [0, 1]."""
        positive, score = _two_class(golds) == 1, _positive_score(probs)
        if not positive.any():
            raise UndefinedMetricError("average_precision needs labels of class 1")
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        # How many examples have at least each distinct probability.
        counts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) + 1
        hits = positive[order].cumsum()[counts - 1]
        return float((np.diff(hits, prepend=0) * (hits / counts)).sum() / positive.sum())


def _area(positive: Array, score: Array) -> float:
    """Return the area under the ROC curve of scores ``[n]``, of which some but not all are of positives."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse][positive].sum()
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
