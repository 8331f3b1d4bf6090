"""What fitting needs to know of a column: its summary, which can be merged with that of further rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from mtl_core.preprocessing.columns import ColumnError
from mtl_core.preprocessing.counting import Moments, ValueCounter, ValueCounts, merged_quantiles
from mtl_core.preprocessing.datetimes import iso_moment

_SHOWN_QUANTILES = (5, 25, 50, 75, 95)
_SHOWN_VALUES = 20


class ColumnSummary(BaseModel):
    """What some rows of a column hold; which parts there are depends on the column's type.

    Attributes:
        name: The column's name.
        rows: How many rows.
        missing: How many of them have no value.
        moments: Of numbers, of true as 1 and false as 0, of a tensor's numbers, or of moments as days since 1970.
        log_moments: Of ``sign(x)·log(1 + |x|)``.
        year_moments: Of the years of dates.
        quantiles: Of numbers, at 0 %, 1 %, … 100 %.
        counts: Of categories, of a sequence's items, or of a text's words.
        max_length: Items of the longest list.
        has_time: Whether a moment is not midnight.
        shape: Shape of a tensor; None where no row has one.
        dtype: Type of a tensor's numbers, as numpy calls it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rows: int = 0
    missing: int = 0
    moments: Moments | None = None
    log_moments: Moments | None = None
    year_moments: Moments | None = None
    quantiles: list[float] | None = None
    counts: ValueCounts | None = None
    max_length: int | None = None
    has_time: bool | None = None
    shape: list[int] | None = None
    dtype: str | None = None

    @property
    def is_constant(self) -> bool:
        """Whether all rows hold the same: one value, or none at all."""
        if self.missing:
            return self.missing == self.rows
        if self.max_length is not None:
            return False
        if self.counts is not None:
            return self.counts.distinct <= 1
        return self.moments is not None and self.moments.n > 0 and self.moments.low == self.moments.high

    def statistics(self) -> dict[str, Any]:
        """Return the summary as people read it: JSON values, without what only fitting needs."""
        shown: dict[str, Any] = {"rows": self.rows, "missing": self.missing}
        if self.moments is not None and self.moments.n:
            found = self.moments
            if self.year_moments is None:
                shown |= {
                    "mean": found.mean,
                    "deviation": found.deviation,
                    "min": found.low,
                    "max": found.high,
                }
            else:
                shown |= {"min": iso_moment(found.low), "max": iso_moment(found.high)}
        if self.quantiles:
            shown["quantiles"] = {f"{level}%": self.quantiles[level] for level in _SHOWN_QUANTILES}
        if self.counts is not None:
            shown |= {
                "distinct": self.counts.distinct,
                "distinct_is_exact": self.counts.distinct_is_exact,
                "top": [[value, n] for value, n in self.counts.values[:_SHOWN_VALUES]],
            }
        for part in ("max_length", "shape", "dtype"):
            if getattr(self, part) is not None:
                shown[part] = getattr(self, part)
        return shown


def merge_summaries(summaries: Sequence[ColumnSummary]) -> ColumnSummary:
    """Return the summary of several sets of rows of one column together.

    Quantiles are exact where one set alone has numbers; else approximate, by 101 points of each.

    Raises:
        ColumnError: If tensors of the sets differ in shape.
    """
    if len(summaries) == 1:
        return summaries[0]
    name = summaries[0].name
    shapes = [summary.shape for summary in summaries if summary.shape is not None]
    if any(shape != shapes[0] for shape in shapes):
        raise ColumnError(name, None, f"some rows have shape {shapes[0]}, others do not")
    dtype: str | None = None
    for summary in summaries:
        dtype = wider_dtype(dtype, summary.dtype) if summary.dtype else dtype
    lengths = [summary.max_length for summary in summaries if summary.max_length is not None]
    times = [summary.has_time for summary in summaries if summary.has_time is not None]
    return ColumnSummary(
        name=name,
        rows=sum(summary.rows for summary in summaries),
        missing=sum(summary.missing for summary in summaries),
        moments=_merged_moments([summary.moments for summary in summaries]),
        log_moments=_merged_moments([summary.log_moments for summary in summaries]),
        year_moments=_merged_moments([summary.year_moments for summary in summaries]),
        quantiles=_quantiles(summaries),
        counts=_merged_counts([summary.counts for summary in summaries]),
        max_length=max(lengths, default=None),
        has_time=any(times) if times else None,
        shape=shapes[0] if shapes else None,
        dtype=dtype,
    )


def _merged_moments(found: Sequence[Moments | None]) -> Moments | None:
    given = [moments for moments in found if moments is not None]
    merged = Moments() if given else None
    for moments in given:
        merged = moments.merged(merged) if merged is not None else moments
    return merged


def _merged_counts(found: Sequence[ValueCounts | None]) -> ValueCounts | None:
    given = [counts for counts in found if counts is not None]
    if not given:
        return None
    counter = ValueCounter()
    for counts in given:
        counter.add_known(counts)
    return counter.finish()


def _quantiles(summaries: Sequence[ColumnSummary]) -> list[float] | None:
    known = [
        (summary.moments.n, summary.quantiles)
        for summary in summaries
        if summary.quantiles is not None and summary.moments is not None
    ]
    return merged_quantiles(known) if known else None


def wider_dtype(one: str | None, other: str) -> str:
    """Return the numpy type that takes the numbers of both types."""
    return other if one is None else np.result_type(np.dtype(one), np.dtype(other)).name
