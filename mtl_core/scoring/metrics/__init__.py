"""Metrics by name, over whole arrays of labels, predictions and probabilities.

Every metric is ``(golds, preds, probs) → float`` over labelled examples only: ``golds [n]`` or ``[n, k]``,
``preds [n]`` or ``[n, k]``, ``probs [n, k]`` (or values ``[n, …]`` for tasks without classes). Of an example
with several labels, those that are missing are NaN and count for nothing.
"""

from mtl_core.scoring.metrics.catalogue import METRICS
from mtl_core.scoring.metrics.metric import Array, Metric, MetricFunction, UndefinedMetricError, check_inputs

__all__ = ["METRICS", "Array", "Metric", "MetricFunction", "UndefinedMetricError", "check_inputs"]
