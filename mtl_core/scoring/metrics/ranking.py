"""Metrics of the order that scores put examples in."""

from __future__ import annotations

import numpy as np

from mtl_core.scoring.metrics.metric import Array, Metric, UndefinedMetricError, given


class NormalizedDiscountedGain(Metric):
    """Discounted cumulative gain of the order by scores as a share of the best order's, averaged over the groups.

    A relevance is a gain as it is, and place ``i`` from 1 discounts it by ``log2(i + 1)``; equal scores share the mean
    of their places' discounts. Labels are relevances ``[n]``, of one group, or groups and relevances ``[n, 2]``; groups
    without any relevance above 0 do not count.

    Source: Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, 2002.

    Args:
        k: How many places count; default: all, at least 1.
    """

    of_classes = False

    def __init__(self, k: int | None = None) -> None:
        if k is not None and k < 1:
            raise ValueError("k must be at least 1")
        self.k = k

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the mean over the groups, in [0, 1]."""
        if preds.ndim != 1 or golds.shape not in {preds.shape, (len(preds), 2)}:
            raise UndefinedMetricError(
                "ndcg is for one score an example and its relevance, or group and relevance"
            )
        labels = golds if golds.ndim == 2 else np.stack([np.zeros_like(golds), golds], axis=1)
        known = given(labels).all(axis=1)
        labels, scores = labels[known], preds[known]
        if (labels[:, 1] < 0).any():
            raise UndefinedMetricError("ndcg needs relevances of at least 0")
        _, groups = np.unique(labels[:, 0], return_inverse=True)
        relevances = labels[:, 1].astype(float)
        best = self._gains(groups, relevances, relevances)
        counts = best > 0
        if not counts.any():
            raise UndefinedMetricError("ndcg needs a relevance above 0")
        return float((self._gains(groups, relevances, scores)[counts] / best[counts]).mean())

    def _gains(self, groups: Array, relevances: Array, scores: Array) -> Array:
        """Return the discounted gain of each group ``[g]``, of which examples tell the number ``[n]`` from 0."""
        order = np.lexsort((-scores, groups))
        groups, relevances, scores = groups[order], relevances[order], scores[order]
        starts = np.append(True, groups[1:] != groups[:-1])[: len(groups)]
        places = np.arange(len(groups)) - np.flatnonzero(starts)[groups]
        discounts = 1 / np.log2(places + 2)
        if self.k is not None:
            discounts[places >= self.k] = 0
        tied = np.cumsum(starts | np.append(True, scores[1:] != scores[:-1])[: len(groups)]) - 1
        shared = np.bincount(tied, discounts) / np.bincount(tied)
        return np.bincount(groups, relevances * shared[tied])
