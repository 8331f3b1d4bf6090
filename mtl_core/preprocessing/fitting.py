"""Fitting: from a field's columns and what the training data holds to a field that can be encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_core.errors import TaskloomError
from mtl_core.preprocessing.columns import ColumnError
from mtl_core.preprocessing.counting import Moments
from mtl_core.preprocessing.fitted import (
    FittedBoolean,
    FittedDatetime,
    FittedIndex,
    FittedList,
    FittedNumber,
    FittedOneHot,
)
from mtl_core.preprocessing.fitted_arrays import (
    FittedSequence,
    FittedTensor,
    FittedText,
    SentenceEncoderInfo,
)
from mtl_core.preprocessing.fitted_field import FittedColumn, FittedField
from mtl_core.preprocessing.specs import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatePart,
    DatetimeColumn,
    FieldPlan,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    TensorColumn,
    TextColumn,
)
from mtl_core.preprocessing.summaries import ColumnSummary
from mtl_core.specs import DType

MAX_WIDTH = 2**20
"""Numbers of one example."""

_MAX_LIST = 4096
_DEFAULT_PARTS: list[DatePart] = ["elapsed", "month", "weekday"]
_TIMES: list[DatePart] = ["hour", "minute"]


def fit_field(
    plan: FieldPlan,
    summaries: Mapping[str, ColumnSummary],
    encoders: Mapping[str, SentenceEncoderInfo] | None = None,
) -> FittedField:
    """Fit a field to the training data; a pure function of its arguments.

    Args:
        plan: The field's columns.
        summaries: What the training data holds, by column.
        encoders: The sentence encoders that there are, by name.

    Raises:
        ColumnError: If a column has no summary, a tensor column no tensor, or a text's encoder is not there.
        TaskloomError: If an example would be larger than :data:`MAX_WIDTH` numbers.
    """
    for column in plan.columns:
        if column.name not in summaries:
            raise ColumnError(column.name, None, "has no summary")
    fitted = FittedField(
        plan=plan,
        columns=[_fit(column, summaries[column.name], encoders or {}) for column in plan.columns],
    )
    if not isinstance(fitted.columns[0], FittedTensor) and fitted.shape[0] > MAX_WIDTH:
        raise TaskloomError(
            f"the columns make {fitted.shape[0]:,} numbers of an example; at most {MAX_WIDTH:,}"
        )
    return fitted


def _fit(spec: ColumnSpec, found: ColumnSummary, encoders: Mapping[str, SentenceEncoderInfo]) -> FittedColumn:
    common: dict[str, Any] = {"name": spec.name, "missing": spec.missing}
    match spec:
        case NumberColumn():
            fitted = _fit_number(spec, found, common)
        case BooleanColumn():
            fitted = FittedBoolean(**common, indicator=_indicator(spec.indicator, found))
        case CategoricalColumn():
            fitted = _fit_categorical(spec, found, common)
        case DatetimeColumn():
            fitted = _fit_datetime(spec, found, common)
        case ListColumn():
            length = spec.length or min(max(found.max_length or 0, 1), _MAX_LIST)
            fitted = FittedList(**common, length=length)
        case TextColumn():
            fitted = _fit_text(spec, found, common, encoders)
        case SequenceColumn():
            values = _frequent(found, spec.max_size, spec.min_count)
            fitted = FittedSequence(**common, values=values, max_length=spec.max_length)
        case TensorColumn():
            fitted = _fit_tensor(spec, found, common)
    return fitted


def _fit_number(spec: NumberColumn, found: ColumnSummary, common: dict[str, Any]) -> FittedNumber:
    moments = found.moments or Moments()
    quantiles = found.quantiles or [0.0] * 101
    fills = {"mean": moments.mean, "median": quantiles[50], "zero": 0.0}
    center, scale = 0.0, 1.0
    match spec.scale:
        case "standard":
            center, scale = moments.mean, moments.deviation
        case "log":
            logged = found.log_moments or Moments()
            center, scale = logged.mean, logged.deviation
        case "robust":
            center, scale = quantiles[50], quantiles[75] - quantiles[25]
        case "minmax":
            center, scale = moments.low, moments.high - moments.low
        case "none":
            pass
    return FittedNumber(
        **common,
        log=spec.scale == "log",
        fill=fills[spec.impute] if isinstance(spec.impute, str) else spec.impute,
        center=center,
        scale=scale or 1.0,
        indicator=_indicator(spec.indicator, found),
    )


def _fit_categorical(
    spec: CategoricalColumn, found: ColumnSummary, common: dict[str, Any]
) -> FittedOneHot | FittedIndex:
    fitted = FittedOneHot if spec.encode == "onehot" else FittedIndex
    if spec.hash_buckets is not None:
        return fitted(**common, hash_buckets=spec.hash_buckets)
    return fitted(**common, values=_frequent(found, spec.size, spec.min_count))


def _fit_datetime(spec: DatetimeColumn, found: ColumnSummary, common: dict[str, Any]) -> FittedDatetime:
    moments, year = found.moments or Moments(), found.year_moments or Moments()
    return FittedDatetime(
        **common,
        parts=spec.parts or (_DEFAULT_PARTS + _TIMES if found.has_time else _DEFAULT_PARTS),
        first=moments.low,
        elapsed_center=moments.mean - moments.low,
        elapsed_scale=moments.deviation or 1.0,
        year_center=year.mean,
        year_scale=year.deviation or 1.0,
        indicator=_indicator(spec.indicator, found),
    )


def _fit_text(
    spec: TextColumn,
    found: ColumnSummary,
    common: dict[str, Any],
    encoders: Mapping[str, SentenceEncoderInfo],
) -> FittedText:
    common |= {"max_length": spec.max_length, "lowercase": spec.lowercase}
    if spec.encoder is None:
        return FittedText(**common, words=_frequent(found, spec.max_size, spec.min_count))
    if spec.encoder not in encoders:
        raise ColumnError(spec.name, None, f"there is no sentence encoder '{spec.encoder}'")
    return FittedText(**common, words=[], encoder=spec.encoder, encoder_info=encoders[spec.encoder])


def _fit_tensor(spec: TensorColumn, found: ColumnSummary, common: dict[str, Any]) -> FittedTensor:
    moments = found.moments or Moments()
    if found.shape is None or found.dtype is None:
        raise ColumnError(spec.name, None, "no row of the training data has a tensor: its shape is not known")
    if 0 in found.shape:
        raise ColumnError(spec.name, None, f"tensors of shape {found.shape} hold nothing")
    center, scale = 0.0, 1.0
    if spec.scale == "standard":
        center, scale = moments.mean, moments.deviation or 1.0
    elif spec.scale == "minmax":
        center, scale = moments.low, moments.high - moments.low or 1.0
    integers = spec.scale == "none" and np.dtype(found.dtype).kind != "f"
    dtype: DType = "int64" if integers else "float32"
    return FittedTensor(**common, shape=found.shape, dtype=dtype, center=center, scale=scale)


def _frequent(found: ColumnSummary, size: int, min_count: int) -> list[str]:
    return found.counts.most_frequent(size, min_count) if found.counts else []


def _indicator(wanted: bool | None, found: ColumnSummary) -> bool:
    return found.missing > 0 if wanted is None else wanted
