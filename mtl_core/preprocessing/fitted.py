"""Columns fitted to training data that become numbers or indices side by side."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mtl_core.preprocessing.arrays import Lists, list_numbers, read_lists
from mtl_core.preprocessing.columns import (
    FLOAT32_MAX,
    Categories,
    Column,
    Missing,
    read_booleans,
    read_categories,
    read_numbers,
)
from mtl_core.preprocessing.datetimes import (
    DAY,
    PERIODS,
    Instants,
    Micros,
    circle,
    place_in_period,
    read_instants,
    years,
)
from mtl_core.preprocessing.specs import DatePart, MissingValues

Block = NDArray[np.float32]
"""Numbers of some columns ``[n, width]``; 0 until they are written."""

UNKNOWN, MISSING, FIRST_VALUE = 0, 1, 2
"""Indices of a categorical column."""


class FittedBase(BaseModel):
    """What all fitted columns have in common.

    Attributes:
        name: The column's name.
        missing: Further values that mean "missing".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    missing: MissingValues = []

    @cached_property
    def missing_values(self) -> Missing:
        """The values that mean "missing", as they are compared."""
        return Missing(self.missing)


class _OneNumber(FittedBase):
    """A number, and another that says whether it is missing where ``indicator``."""

    indicator: bool

    @property
    def width(self) -> int:
        """How many numbers of an example the column gives."""
        return 1 + self.indicator

    @property
    def features(self) -> list[str]:
        """What each number means."""
        return [self.name, *_indicator(self.name, self.indicator)]


class FittedNumber(_OneNumber):
    """``(x - center) / scale``, of ``sign(x)·log(1 + |x|)`` where ``log``; a missing number is ``fill``."""

    type: Literal["number"] = "number"
    log: bool
    fill: float
    center: float
    scale: float

    def read(self, array: Column) -> NDArray[np.float64]:
        """Return the raw values."""
        return read_numbers(array, self.name, self.missing_values)

    def write(self, array: Column, block: Block) -> None:
        """Write the column's numbers."""
        numbers = self.read(array)
        absent = np.isnan(numbers)
        numbers[absent] = self.fill
        if self.log:
            numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        block[:, 0] = _standardised(numbers, self.center, self.scale)
        if self.indicator:
            block[:, 1] = absent


class FittedBoolean(_OneNumber):
    """1 for true, 0 for false, 0.5 for missing."""

    type: Literal["boolean"] = "boolean"

    def read(self, array: Column) -> NDArray[np.float64]:
        """Return the raw values."""
        return read_booleans(array, self.name, self.missing_values)

    def write(self, array: Column, block: Block) -> None:
        """Write the column's numbers."""
        values = self.read(array)
        absent = np.isnan(values)
        block[:, 0] = np.where(absent, 0.5, values)
        if self.indicator:
            block[:, 1] = absent


class _FittedCategorical(FittedBase):
    values: list[str] = []
    hash_buckets: int | None = None

    @property
    def size(self) -> int:
        """How many indices there are: unknown, missing, then values or buckets."""
        return FIRST_VALUE + (self.hash_buckets or len(self.values))

    def read(self, array: Column) -> Categories:
        """Return the raw values."""
        return read_categories(array, self.name, self.missing_values)

    def indices(self, array: Column) -> NDArray[np.int64]:
        """Return each row's index ``[n]``."""
        categories = self.read(array)
        index = self._index
        if self.hash_buckets is not None:
            index = {value: _bucket(value, self.hash_buckets) for value in categories.values}
        return categories.lookup(index, UNKNOWN, MISSING)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.values, FIRST_VALUE)}


class FittedOneHot(_FittedCategorical):
    """1 at the index of the value, 0 elsewhere."""

    type: Literal["onehot"] = "onehot"

    @property
    def width(self) -> int:
        """How many numbers of an example the column gives."""
        return self.size

    @property
    def features(self) -> list[str]:
        """What each number means."""
        named = self.values if self.hash_buckets is None else [f"#{i}" for i in range(self.hash_buckets)]
        return [
            f"{self.name} is unknown",
            f"{self.name} is missing",
            *(f"{self.name}={value}" for value in named),
        ]

    def write(self, array: Column, block: Block) -> None:
        """Write the column's numbers."""
        block[np.arange(len(block)), self.indices(array)] = 1.0


class FittedIndex(_FittedCategorical):
    """The index of the value."""

    type: Literal["index"] = "index"


class FittedDatetime(FittedBase):
    """Days since the first training moment and years, standardised; sine and cosine of what comes again."""

    type: Literal["datetime"] = "datetime"
    parts: list[DatePart]
    first: float
    elapsed_center: float
    elapsed_scale: float
    year_center: float
    year_scale: float
    indicator: bool

    @property
    def width(self) -> int:
        """How many numbers of an example the column gives."""
        return sum(2 if part in PERIODS else 1 for part in self.parts) + self.indicator

    @property
    def features(self) -> list[str]:
        """What each number means."""
        names = [
            f"{self.name} {part}{function}"
            for part in self.parts
            for function in ((" sin", " cos") if part in PERIODS else ("",))
        ]
        return [*names, *_indicator(self.name, self.indicator)]

    def read(self, array: Column) -> Instants:
        """Return the raw values."""
        return read_instants(array, self.name, self.missing_values)

    def write(self, array: Column, block: Block) -> None:
        """Write the column's numbers."""
        found = self.read(array)
        at = 0
        for part in self.parts:
            width = 2 if part in PERIODS else 1
            block[found.given, at : at + width] = self._part(found.micros[found.given], part)
            at += width
        if self.indicator:
            block[:, at] = ~found.given

    def _part(self, micros: Micros, part: DatePart) -> Block:
        if part in PERIODS:
            return circle(PERIODS[part])[place_in_period(micros, part)]
        if part == "year":
            return _standardised(years(micros), self.year_center, self.year_scale)[:, None]
        return _standardised(micros / DAY - self.first, self.elapsed_center, self.elapsed_scale)[:, None]


class FittedList(FittedBase):
    """Numbers, cut or padded with 0 to ``length``."""

    type: Literal["list"] = "list"
    length: int

    @property
    def width(self) -> int:
        """How many numbers of an example the column gives."""
        return self.length

    @property
    def features(self) -> list[str]:
        """What each number means."""
        return [f"{self.name}[{i}]" for i in range(self.length)]

    def read(self, array: Column) -> tuple[Lists, NDArray[np.float64]]:
        """Return the raw values: lists, and all their numbers in one row."""
        lists = read_lists(array, self.name)
        return lists, list_numbers(lists, self.name, self.missing_values)

    def write(self, array: Column, block: Block) -> None:
        """Write the column's numbers."""
        lists, numbers = self.read(array)
        block[:] = lists.padded(numbers, self.length)


NumberColumns: TypeAlias = Annotated[
    FittedNumber | FittedBoolean | FittedOneHot | FittedDatetime | FittedList, Field(discriminator="type")
]
"""Columns that give numbers."""


def _indicator(name: str, wanted: bool) -> list[str]:
    return [f"{name} is missing"] if wanted else []


def _standardised(numbers: NDArray[np.float64] | NDArray[np.int64], center: float, scale: float) -> Block:
    # A scale next to nothing may lead out of every range.
    with np.errstate(over="ignore"):
        scaled = (numbers - center) / scale
    return np.clip(scaled, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _bucket(value: str, buckets: int) -> int:
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return FIRST_VALUE + int.from_bytes(digest, "big") % buckets
