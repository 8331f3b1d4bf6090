"""Scores of one task's predictions, and the row that a score is stored as."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtl_core.data import UNLABELLED
from mtl_core.errors import TaskloomError
from mtl_core.metrics import METRICS, Array, MetricFunction, UndefinedMetricError


@dataclass(frozen=True)
class Score:
    """One metric of one task on one split of a dataset.

    Attributes:
        task: Whose predictions were scored.
        dataset: The dataset's name.
        split: The split's name.
        metric: The metric's name.
        value: The metric; NaN where it is undefined.
        n: How many labelled examples it was computed over.
        reason: Why the value is not finite; None where it is.
    """

    task: str
    dataset: str
    split: str
    metric: str
    value: float
    n: int
    reason: str | None = None

    @property
    def key(self) -> str:
        """The score's flat name, ``task/dataset/split/metric``."""
        return f"{self.task}/{self.dataset}/{self.split}/{self.metric}"


class Scorer:
    """Computes named metrics of golds, predictions and probabilities.

    Args:
        metrics: Names from the catalogue, or ``{"type": name, …arguments}``; each is reported under its name.
        custom_metric_funcs: Further metrics by name, each ``(golds, preds, probs) → float``.
        abstain_label: The label that means not labelled; such examples count in no metric. Default -1.

    Raises:
        TaskloomError: If a metric is unknown or two have one name.

    Example:
        >>> import numpy as np
        >>> Scorer(metrics=["accuracy"]).score(np.array([1, 0, -1]), np.array([1, 1, 1]), np.zeros((3, 2)))
        {'accuracy': 0.5}
    """

    def __init__(
        self,
        metrics: Iterable[str | Mapping[str, Any]] | None = None,
        custom_metric_funcs: Mapping[str, MetricFunction] | None = None,
        abstain_label: int | None = UNLABELLED,
    ) -> None:
        self.metrics: dict[str, MetricFunction] = {}
        for spec in metrics or []:
            self._add(METRICS.arguments(spec)[0], METRICS.build(spec))
        for name, function in (custom_metric_funcs or {}).items():
            self._add(name, function)
        self.abstain_label = abstain_label

    def _add(self, name: str, function: MetricFunction) -> None:
        if name in self.metrics:
            raise TaskloomError(f"two metrics are named '{name}'")
        self.metrics[name] = function

    def score(self, golds: Array, preds: Array, probs: Array) -> dict[str, float]:
        """Return each metric's value by name; NaN where it is undefined.

        Args:
            golds: Labels ``[n]`` or ``[n, k]``.
            preds: Predictions ``[n]`` or ``[n, k]``.
            probs: Probabilities ``[n, k]`` or values ``[n, …]``.
        """
        return {score.metric: score.value for score in self.scores(golds, preds, probs, "", "", "")}

    def scores(
        self, golds: Array, preds: Array, probs: Array, task: str, dataset: str, split: str
    ) -> list[Score]:
        """Return :meth:`score` as rows, with the count of labelled examples and the reason for every NaN."""
        given = self._given(golds)
        labelled = given.reshape(len(given), -1).any(axis=1)
        n = int(labelled.sum())
        if not given.all():
            # Of an example with several labels some may be missing; metrics know those by NaN.
            golds = golds if golds.ndim == 1 else np.where(given, golds, np.nan)
            golds, preds, probs = golds[labelled], preds[labelled], probs[labelled]
        if golds.ndim == 2 and preds.ndim == 1:
            # Distributions as labels are scored against their likeliest class.
            golds = golds[:, 0] if golds.shape[1] == 1 else golds.argmax(axis=1)
        rows: list[Score] = []
        for name, function in self.metrics.items():
            value, reason = math.nan, "no example is labelled"
            if n:
                value, reason = _value_or_reason(function, golds, preds, probs)
            rows.append(Score(task, dataset, split, name, value, n, reason))
        return rows

    def _given(self, golds: Array) -> Array:
        """Return which entries of ``golds [n, …]`` are labels, as booleans ``[n, …]``."""
        given: Array = np.ones(golds.shape, dtype=bool)
        if self.abstain_label is not None:
            given &= golds != self.abstain_label
        if np.issubdtype(golds.dtype, np.floating):
            given &= ~np.isnan(golds)
        return given


def _value_or_reason(
    function: MetricFunction, golds: Array, preds: Array, probs: Array
) -> tuple[float, str | None]:
    try:
        value = float(function(golds, preds, probs))
    except UndefinedMetricError as error:
        return math.nan, str(error)
    return value, None if math.isfinite(value) else f"the metric's value is {value}"
