"""Scores of one task's predictions, and the row that a score is stored as."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import numpy as np

from mtl_core.data import UNLABELLED
from mtl_core.errors import TaskloomError
from mtl_core.scoring.dataframes import import_pandas
from mtl_core.scoring.metrics import (
    METRICS,
    Array,
    Metric,
    MetricFunction,
    UndefinedMetricError,
    check_inputs,
)

NO_LABEL: Final = "no example is labelled"
"""Why a score of a split without labels is undefined."""

OVERALL: Final = "overall"
"""Under which name :meth:`Scorer.score_slices` answers the scores of all examples."""


@dataclass(frozen=True)
class Score:
    """One metric of one task on one split of a dataset.

    Attributes:
        task: Whose predictions were scored.
        dataset: The dataset's name.
        split: The split's name.
        metric: The metric's name.
        value: The metric; NaN where it is undefined.
        n: How many examples it was computed over: those with a label and a prediction, or all for coverage.
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


class _Inputs(NamedTuple):
    golds: Array | None
    preds: Array | None
    probs: Array | None


class Scorer:
    """Computes named metrics of golds, predictions and probabilities.

    Args:
        metrics: Names from the catalogue, or ``{"type": name, …arguments}``; each is reported under its name.
        custom_metric_funcs: Further metrics by name, each ``(golds, preds, probs) → number``, or a dict of several,
            which are reported under the dict's names. They see what the catalogue's do: no example without a label or
            with an abstaining prediction. A :class:`~mtl_core.scoring.metrics.Metric` whose ``leaves_out`` is False
            sees all.
        abstain_label: The label that means not labelled, and the whole number that means not predicted; such examples
            count in no metric but coverage. Default -1; None: every label counts.

    Attributes:
        metrics: Each metric's function by name.
        abstain_label: See above.

    Raises:
        TaskloomError: If a metric is unknown or two have one name.

    Example:
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

    @property
    def is_of_catalogue(self) -> bool:
        """Whether every metric is a :class:`~mtl_core.scoring.metrics.Metric`, which says what it looks at."""
        return all(isinstance(function, Metric) for function in self.metrics.values())

    @property
    def inputs(self) -> frozenset[str]:
        """Which of ``golds``, ``preds`` and ``probs`` the metrics look at; a plain function may look at all."""
        return frozenset(
            kind
            for function in self.metrics.values()
            for kind in (function.inputs if isinstance(function, Metric) else _Inputs._fields)
        )

    def score(self, golds: Array, preds: Array | None = None, probs: Array | None = None) -> dict[str, float]:
        """Return each metric's value by name; NaN where it is undefined.

        Args:
            golds: Labels ``[n]`` or ``[n, k]``, of one example or more.
            preds: Predictions ``[n]`` or ``[n, k]``; default: none, for metrics that need none.
            probs: Probabilities ``[n, k]`` or values ``[n, …]``; default: none.

        Raises:
            TaskloomError: If there are no labels or a metric lacks the predictions or probabilities it needs.
        """
        if not len(golds):
            raise TaskloomError("there are no labels to score")
        return _by_metric(self.scores(golds, preds, probs, "", "", ""))

    def scores(
        self,
        golds: Array,
        preds: Array | None,
        probs: Array | None,
        task: str,
        dataset: str,
        split: str,
    ) -> list[Score]:
        """Return :meth:`score` as rows, with the count of examples and the reason for every NaN.

        Of a custom metric that answers several numbers there is a row for each, or one under its own name where it is
        undefined.

        Raises:
            TaskloomError: As :meth:`score`, but for labels of no example at all, and if two rows would have one name.
        """
        whole = _Inputs(*(None if array is None else np.asarray(array) for array in (golds, preds, probs)))
        counted, why_none = self._counted(whole)
        rows: list[Score] = []
        for name, function in self.metrics.items():
            inputs = counted if _leaves_out(function) else whole
            if isinstance(function, Metric):
                # What a plain function needs is for itself to say.
                check_inputs(name, function, inputs._asdict())
            n = len(cast("Array", inputs.golds))
            if n:
                values, reason = _values_or_reason(name, function, inputs)
            else:
                values, reason = {name: math.nan}, why_none
            for key, value in values.items():
                finite = reason or (None if math.isfinite(value) else f"the metric's value is {value}")
                rows.append(Score(task, dataset, split, key, value, n, finite))
        names = [row.metric for row in rows]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise TaskloomError(f"two metrics are named '{doubled[0]}'")
        return rows

    def score_slices(
        self, S: Array, golds: Array, preds: Array, probs: Array, as_dataframe: bool = False
    ) -> Any:
        """Score all examples, and those of every slice.

        Args:
            S: Who is in which slice: ``[n]`` with a named column for each, 1 (or true) in the slice.
            golds: Labels ``[n]`` or ``[n, k]``, of one example or more.
            preds: Predictions ``[n]`` or ``[n, k]``.
            probs: Probabilities ``[n, k]`` or values ``[n, …]``.
            as_dataframe: Whether to answer a pandas ``DataFrame``, a row a slice and a column a metric; default: no.

        Returns:
            By slice, and for all examples under ``"overall"``: each metric's value by name, NaN where it is undefined
            or nobody with a label is in the slice.

        Raises:
            TaskloomError: As :meth:`score`, if lengths differ, or ``S`` has no named columns or one of ``"overall"``.

        Example:
            >>> S = np.array([(1,), (0,)], dtype=[("night", int)])
            >>> golds, preds = np.array([1, 0]), np.array([1, 1])
            >>> Scorer(["accuracy"]).score_slices(S, golds, preds, np.eye(2))
            {'overall': {'accuracy': 0.5}, 'night': {'accuracy': 1.0}}
        """
        lengths = {
            name: len(array)
            for name, array in (("S", S), ("golds", golds), ("preds", preds), ("probs", probs))
        }
        if len(set(lengths.values())) > 1:
            raise TaskloomError(f"these are of the same examples and should have one length, not {lengths}")
        if not S.dtype.names or OVERALL in S.dtype.names:
            raise TaskloomError(f"S needs a named column for each slice, none of them '{OVERALL}'")
        scores = {OVERALL: self.score(golds, preds, probs)}
        for name in S.dtype.names:
            inside = S[name] == 1
            scores[name] = _by_metric(self.scores(golds[inside], preds[inside], probs[inside], "", "", ""))
        return import_pandas().DataFrame.from_dict(scores, orient="index") if as_dataframe else scores

    def _counted(self, whole: _Inputs) -> tuple[_Inputs, str]:
        """Return what metrics of labelled and predicted examples see, and why that is nothing if it is."""
        golds, preds, probs = cast("Array", whole.golds), whole.preds, whole.probs
        missing = self._missing(golds)
        some_missing = bool(np.count_nonzero(missing))
        left_out = _in_all(missing)
        why_none = NO_LABEL
        if self.abstain_label is not None and preds is not None and preds.dtype.kind in "iu":
            abstains = _in_all(preds == self.abstain_label)
            if np.count_nonzero(abstains):
                either = left_out | abstains
                if either.all() and not left_out.all():
                    why_none = "every prediction abstains"
                left_out = either
        if some_missing and golds.ndim > 1:
            # Of an example with several labels some may be missing; metrics know those by NaN.
            golds = np.where(missing, np.nan, golds)
        if np.count_nonzero(left_out):
            counted = ~left_out
            golds = golds[counted]
            preds = None if preds is None else preds[counted]
            probs = None if probs is None else probs[counted]
        return _aligned(golds, preds, probs), why_none

    def _missing(self, golds: Array) -> Array:
        """Return which entries of ``golds [n, …]`` are no labels, as booleans ``[n, …]``."""
        if self.abstain_label is None:
            missing: Array = np.zeros(golds.shape, dtype=bool)
        else:
            missing = golds == self.abstain_label
        if golds.dtype.kind == "f":
            missing |= np.isnan(golds)
        return missing


def _aligned(golds: Array, preds: Array | None, probs: Array | None) -> _Inputs:
    """Return labels and predictions of one class an example along one dimension."""
    if preds is not None and preds.ndim == 2 and preds.shape[1] == 1:
        preds = preds[:, 0]
    if golds.ndim == 2 and golds.shape[1] == 1:
        golds = golds[:, 0]
    elif golds.ndim == 2 and preds is not None and preds.ndim == 1 and np.issubdtype(preds.dtype, np.integer):
        # Distributions as labels are scored against their likeliest class.
        golds = golds.argmax(axis=1)
    return _Inputs(golds, preds, probs)


def _in_all(which: Array) -> Array:
    """Say for which examples all of the entries ``[n, …]`` are true, as booleans ``[n]``."""
    return which if which.ndim == 1 else np.asarray(which.all(axis=tuple(range(1, which.ndim))))


def _leaves_out(function: MetricFunction) -> bool:
    return not isinstance(function, Metric) or function.leaves_out


def _by_metric(rows: Iterable[Score]) -> dict[str, float]:
    return {row.metric: row.value for row in rows}


def _values_or_reason(
    name: str, function: MetricFunction, inputs: _Inputs
) -> tuple[dict[str, float], str | None]:
    try:
        value = function(*cast("tuple[Array, Array, Array]", inputs))
    except UndefinedMetricError as error:
        return {name: math.nan}, str(error)
    if isinstance(value, Mapping):
        return {key: float(number) for key, number in value.items()}, None
    return {name: float(value)}, None
