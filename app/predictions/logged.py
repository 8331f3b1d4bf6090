"""What of a prediction goes into the request log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.predictions.answering import first_rows
from app.predictions.batching import Fields
from app.predictions.loaded import LoadedVersion, Route
from app.predictions.rows import Rows
from app.request_log.recording import MOST_BYTES, MOST_ROWS, Answered

_MOST_NUMBERS = MOST_BYTES // 2
"""More have no room: each takes a digit and a comma."""


def answered(
    loaded: LoadedVersion,
    route: Route,
    rows: Rows,
    fields: Fields,
    by_task: Mapping[str, Mapping[str, Any]],
    n_bytes: int,
    request_id: str,
    seconds: float,
) -> Answered:
    """Return a prediction as it is logged: copies of its first rows, so that nothing larger is held on to.

    Args:
        loaded: The version.
        route: The path of what was asked.
        rows: What it was asked of, as it came.
        fields: The same as the network reads it.
        by_task: What was answered.
        n_bytes: How large the body was.
        request_id: The request's id.
        seconds: What the prediction took.
    """
    n = len(next(iter(fields.values())))
    numbers = _count(by_task)
    inputs = rows.raw(loaded, MOST_ROWS)
    if inputs is None:
        inputs = {"inputs": fields}
        numbers += _count(fields)
    kept = min(n, MOST_ROWS, _MOST_NUMBERS * n // max(1, numbers))
    first, answers = _first_inputs(inputs, kept), first_rows(by_task, kept)
    return Answered(
        model=loaded.model,
        version=loaded.number,
        tasks=route.tasks,
        request_id=request_id,
        seconds=seconds,
        rows=n,
        kept=kept,
        bytes=n_bytes * kept // n + 8 * min(numbers, _MOST_NUMBERS),
        content=lambda k: (_first_inputs(first, k), first_rows(answers, k)),
    )


def _first_inputs(inputs: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return copies of the first rows of ``records``, ``columns`` or ``inputs``, in the same form."""
    ((form, rows),) = inputs.items()
    if isinstance(rows, Mapping):
        by_name = cast("Mapping[str, Any]", rows)
        return {form: {name: _first(values, n) for name, values in by_name.items()}}
    return {form: _first(rows, n)}


def _first(values: Any, n: int) -> Any:
    return cast("NDArray[Any]", values)[:n].copy() if isinstance(values, np.ndarray) else values[:n]


def _count(value: Any) -> int:
    """Return how many numbers and names there are."""
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value).size
    if isinstance(value, Mapping):
        return sum(map(_count, cast("Mapping[str, Any]", value).values()))
    return sum(map(_count, cast("list[Any]", value))) if isinstance(value, list) else 1
