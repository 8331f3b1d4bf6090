"""What a column probably is, from what an upload's description says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mtl_core.preprocessing.specs import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatetimeColumn,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    TensorColumn,
    TextColumn,
)

_NUMBER = r"(u?int\d|float|double|decimal)"
_ITEM = r"(large_|fixed_size_)?list<((item|element): )?"
_KINDS: tuple[tuple[str, type[ColumnSpec]], ...] = (
    (r"bool", BooleanColumn),
    (_NUMBER, NumberColumn),
    (r"date|timestamp", DatetimeColumn),
    (_ITEM + _NUMBER, ListColumn),
    (_ITEM + "(string|large_string|bool|date)", SequenceColumn),
)
_TEXT_LENGTH = 20
_IDENTIFIER_SHARE = 0.5


def infer_column(
    name: str, dtype: str, shape: list[int], rows: int, summary: Mapping[str, Any]
) -> ColumnSpec | None:
    """Guess what a column is.

    Args:
        name: Its name.
        dtype: Type of its values: `int64`, `string`, `list<float64>` …
        shape: Shape of a tensor; `[]` for all else.
        rows: How many rows it has.
        summary: What else is known: `nulls`, `distinct`, `mean_length` of text, `top` values with their counts.

    Returns:
        What it is; None where it looks like no feature: no value at all, or text that is different in most rows and
        no prose, as identifiers are.
    """
    given = rows - int(summary.get("nulls") or 0)
    if shape:
        return TensorColumn(name=name)
    if given <= 0:
        return None
    if re.match(r"(large_)?string", dtype):
        return _infer_text(name, rows, given, summary)
    kind = next((kind for pattern, kind in _KINDS if re.match(pattern, dtype)), None)
    return kind(name=name) if kind else None


def _infer_text(name: str, rows: int, given: int, summary: Mapping[str, Any]) -> ColumnSpec | None:
    distinct = int(summary.get("distinct") or given)
    if distinct <= max(20, min(1000, rows // 2)):
        return CategoricalColumn(name=name)
    top: list[Any] = summary.get("top") or []
    has_words = not top or any(" " in str(value).strip() for value, _ in top)
    if (summary.get("mean_length") or 0) >= _TEXT_LENGTH and has_words:
        return TextColumn(name=name)
    return None if distinct > _IDENTIFIER_SHARE * given else CategoricalColumn(name=name)
