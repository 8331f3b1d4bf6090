"""Dates and times of a column as instants in microseconds since 1970, and parts of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from mtl_core.preprocessing.columns import (
    Column,
    ColumnError,
    Missing,
    flat,
    given_texts,
    is_text,
    parse,
    wrong_type,
)
from mtl_core.preprocessing.specs import DatePart

Micros = NDArray[np.int64]

DAY: Final = 86_400_000_000
"""Microseconds of a day."""

_ZONE = r":[0-9.]+ ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"

PERIODS: Final[dict[DatePart, int]] = {"month": 12, "day": 31, "weekday": 7, "hour": 24, "minute": 60}
"""Parts that come again, and after how many steps."""


@dataclass(frozen=True)
class Instants:
    """Instants of a column ``[n]`` in microseconds since 1970 (int64, UTC), and which are ``given``."""

    micros: NDArray[np.int64]
    given: NDArray[np.bool_]


def read_instants(array: Column, name: str, missing: Missing) -> Instants:
    """Return the instants of dates, timestamps or text in ISO 8601; those without zone are in UTC.

    Raises:
        ColumnError: At a value that is none.
    """
    array = flat(array)
    kind = array.type
    if is_text(kind):
        array = _parse_instants(given_texts(array, name, missing), name)
    elif not (types.is_timestamp(kind) or types.is_date(kind) or types.is_null(kind)):
        raise wrong_type(array, name, "date or time")
    options = pc.CastOptions(pa.timestamp("us", tz=getattr(kind, "tz", None)), allow_time_truncate=True)
    try:
        micros = array.cast(options=options).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ColumnError(name, None, f"a moment is out of range: {error}") from None
    given: NDArray[np.bool_] = micros.is_valid().to_numpy(zero_copy_only=False)
    return Instants(micros.fill_null(0).to_numpy(zero_copy_only=False), given)


def micros_of_day(micros: Micros) -> NDArray[np.int64]:
    """Return microseconds since midnight ``[n]``."""
    return micros % DAY


def years(micros: Micros) -> NDArray[np.int64]:
    """Return years ``[n]``."""
    return _days(micros).astype("datetime64[Y]").astype(np.int64) + 1970


def place_in_period(micros: Micros, part: DatePart) -> NDArray[np.int64]:
    """Return how many steps of its period have passed ``[n]``: 0 for January, the 1st, Monday, midnight."""
    days = _days(micros)
    match part:
        case "month":
            return days.astype("datetime64[M]").astype(np.int64) % 12
        case "day":
            return (days - days.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64)
        case "weekday":
            return (days.astype(np.int64) + 3) % 7  # 1970 began on a Thursday
        case "hour":
            return micros_of_day(micros) // (DAY // 24)
        case _:
            return micros_of_day(micros) // (DAY // 1440) % 60


def circle(period: int) -> NDArray[np.float32]:
    """Return sine and cosine of each step of a period ``[period, 2]``."""
    angles = [2 * math.pi * step / period for step in range(period)]
    return np.array([[math.sin(angle), math.cos(angle)] for angle in angles], dtype=np.float32)


def iso_moment(days: float) -> str:
    """Return days since 1970 as a moment in ISO 8601, to the second.

    Example:
        >>> iso_moment(19000.5)
        '2022-01-08T12:00:00Z'
    """
    return f"{np.datetime64(round(days * 86_400), 's')}Z"


def _days(micros: Micros) -> NDArray[np.datetime64]:
    return (micros // DAY).astype("datetime64[D]")


def _parse_instants(texts: Column, name: str) -> Column:
    texts = pc.replace_substring_regex(texts, r"(\.[0-9]{6})[0-9]+", r"\1")
    zoned = pc.match_substring_regex(texts, _ZONE)
    none = pa.scalar(None, type=texts.type)
    what = "date or time (like 2024-05-31 or 2024-05-31T12:00:00Z)"
    with_zone = parse(pc.if_else(zoned, texts, none), pa.timestamp("us", "UTC"), name, what)
    without = parse(pc.if_else(zoned, none, texts), pa.timestamp("us"), name, what)
    return pc.coalesce(with_zone.cast(pa.timestamp("us")), without)
