"""Labels of a task from a column: classes by name, numbers, or indices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from mtl_core.documented import Documented
from mtl_core.preprocessing.arrays import read_tensors
from mtl_core.preprocessing.columns import (
    FLOAT32_MAX,
    Categories,
    Column,
    ColumnError,
    Missing,
    category_text,
    flat,
    is_number,
    read_categories,
    read_numbers,
    shown,
)
from mtl_core.preprocessing.counting import ValueCounter, ValueCounts
from mtl_core.preprocessing.specs import ColumnName, MissingValues, Value

MAX_CLASSES = 10_000
UNLABELLED = -1

ClassName: TypeAlias = StrictBool | StrictInt | Annotated[str, Field(max_length=1000)]
LabelType: TypeAlias = Literal["class", "number", "index"]


class LabelSpec(Documented):
    """Which column labels a task, and what its values mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: ColumnName
    """The column's name in the table."""
    type: LabelType | None = None
    """Classes by name, numbers, or indices of classes as they are (-1: not labelled); default: classes, but numbers
    where the column holds floats or tensors."""
    missing: MissingValues = Field(default=[])
    """Further values that mean "not labelled", compared as text without surrounding space."""
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=MAX_CLASSES)] | None = None
    """Names of the classes in order; default: the values of all rows, sorted."""
    positive: (
        Annotated[list[StrictBool | Value], Field(min_length=1, max_length=1000)] | StrictBool | Value | None
    ) = None
    """One or more values: the classes are then whether a row has one of them, `[false, true]`."""

    @model_validator(mode="after")
    def _check_classes(self) -> LabelSpec:
        if self.classes is not None and self.positive is not None:
            raise ValueError("either classes or positive values, not both")
        if self.type not in (None, "class") and (self.classes is not None or self.positive is not None):
            raise ValueError(f"labels of type '{self.type}' have no classes by name")
        if self.classes is not None:
            texts = [category_text(name) for name in self.classes]
            if len(set(texts)) < len(texts) or "" in texts:
                raise ValueError("names of classes must differ, and none may be empty")
        return self


class LabelSummary(BaseModel):
    """What a column of labels holds.

    Attributes:
        column: The column's name.
        rows: How many rows.
        missing: How many of them are not labelled.
        kind: What the values are.
        counts: How often each occurs; None for numbers and tensors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    rows: int
    missing: int
    kind: Literal["boolean", "integer", "float", "text", "tensor"]
    counts: ValueCounts | None = None


class LabelSummariser:
    """Counts a column's labels as its rows stream by.

    Args:
        spec: The labels.
    """

    def __init__(self, spec: LabelSpec) -> None:
        self._spec = spec
        self._missing_values = Missing(spec.missing)
        self._classes = {category_text(name): 0 for name in spec.classes} if spec.classes else None
        self._counter = ValueCounter()
        self._kind: Literal["boolean", "integer", "float", "text", "tensor"] | None = None
        self._rows = 0
        self._labelled = 0
        self._fractions = False

    def add(self, array: Column, start_row: int) -> None:
        """Take some rows into account.

        Args:
            array: Their labels.
            start_row: Number of the first, for errors.

        Raises:
            ColumnError: At a value that is no label of the type, or none of the stated classes.
        """
        array = flat(array)
        self._rows += len(array)
        if types.is_null(array.type):
            return
        self._kind = _kind_of(array.type)
        try:
            self._labelled += self._add(array)
        except ColumnError as error:
            raise error.moved(start_row) from None

    def finish(self) -> LabelSummary:
        """Return the summary of all rows so far."""
        kind = self._kind or "text"
        by_name = _type_of(self._spec, kind) == "class"
        return LabelSummary(
            column=self._spec.column,
            rows=self._rows,
            missing=self._rows - self._labelled,
            kind="integer" if kind == "float" and by_name and not self._fractions else kind,
            counts=self._counter.finish() if by_name else None,
        )

    def _add(self, array: Column) -> int:
        spec = self._spec
        match _type_of(spec, _kind_of(array.type)):
            case "class":
                found = _read_classes(array, spec.column, self._missing_values, self._classes)
                self._counter.add(found.counted())
                self._fractions |= _has_fractions(array, self._missing_values)
                return int((found.codes >= 0).sum())
            case "number":
                numbers = _numbers(array, spec.column, self._missing_values)
                return int((~np.isnan(numbers)).reshape(len(numbers), -1).any(axis=1).sum())
            case _:
                indices = _indices(array, spec.column, self._missing_values)
                return int((indices != UNLABELLED).reshape(len(indices), -1).any(axis=1).sum())


def class_names_of(spec: LabelSpec, summary: LabelSummary) -> list[str | int | bool] | None:
    """Return the names of a task's classes in order: as stated, else all values sorted; None where it has none.

    Raises:
        ColumnError: If there are more than 10,000 classes.
    """
    if spec.positive is not None:
        return [False, True]
    if spec.classes is not None:
        return list(spec.classes)
    if summary.counts is None:
        return None
    if summary.counts.distinct > MAX_CLASSES:
        detail = (
            f"{summary.counts.distinct:,} different values are too many classes (at most {MAX_CLASSES:,})"
        )
        raise ColumnError(spec.column, None, detail)
    texts: list[Any] = sorted(value for value, _ in summary.counts.values)
    if summary.kind == "boolean":
        return [False, True]
    if summary.kind == "integer":
        return sorted(int(text) for text in texts)
    return texts


class FittedLabel(BaseModel):
    """How a column's values become a task's labels.

    Attributes:
        column: The column's name.
        type: Classes by name, numbers, or indices.
        class_names: Names of the classes in order; None for numbers and indices.
        missing: Further values that mean "not labelled".
        positive: Values of the class True; None where each class has one value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    type: LabelType
    class_names: list[ClassName] | None = None
    missing: MissingValues = Field(default=[])
    positive: list[StrictBool | Value] | None = None

    def encode(self, array: Column) -> NDArray[Any]:
        """Return labels: int64 ``[n]`` with -1 or float32 ``[n]`` with NaN where missing, tensors ``[n, …]`` likewise.

        Raises:
            ColumnError: At a value that is no class, number or index.
        """
        array, missing = flat(array), self._missing_values
        if types.is_null(array.type):
            array = array.cast(pa.float64())
        if self.type == "number":
            return _numbers(array, self.column, missing)
        if self.type == "index":
            return _indices(array, self.column, missing)
        if self.positive is None:
            found = _read_classes(array, self.column, missing, self._index)
            return found.lookup(self._index, UNLABELLED, UNLABELLED)
        return read_categories(array, self.column, missing).lookup(self._positive, 0, UNLABELLED)

    @cached_property
    def _missing_values(self) -> Missing:
        return Missing(self.missing)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {category_text(name): code for code, name in enumerate(self.class_names or [])}

    @cached_property
    def _positive(self) -> dict[str, int]:
        return dict.fromkeys(map(category_text, self.positive or []), 1)


def fit_label(spec: LabelSpec, class_names: Sequence[str | int | bool] | None) -> FittedLabel:
    """Return how labels are encoded.

    Args:
        spec: The labels.
        class_names: Names of the classes in order, as :func:`class_names_of` says; None where there are none.
    """
    positive = spec.positive
    return FittedLabel(
        column=spec.column,
        type=spec.type or ("number" if class_names is None else "class"),
        class_names=None if class_names is None else list(class_names),
        missing=spec.missing,
        positive=positive if positive is None or isinstance(positive, list) else [positive],
    )


def _kind_of(kind: Any) -> Literal["boolean", "integer", "float", "text", "tensor"]:
    if isinstance(kind, pa.FixedShapeTensorType) or types.is_nested(kind):
        return "tensor"
    if types.is_boolean(kind):
        return "boolean"
    if is_number(kind):
        return "integer" if types.is_integer(kind) else "float"
    return "text"


def _type_of(spec: LabelSpec, kind: str) -> LabelType:
    if spec.type is not None:
        return spec.type
    by_name = spec.classes is not None or spec.positive is not None or kind not in ("float", "tensor")
    return "class" if by_name else "number"


def _read_classes(array: Column, name: str, missing: Missing, classes: dict[str, int] | None) -> Categories:
    """Return labels by name; where classes are stated, each label is one of them."""
    found = read_categories(array, name, missing)
    if classes is None:
        return found
    row = found.first_row([value not in classes for value in found.values])
    if row is not None:
        known = ", ".join(map(shown, list(classes)[:10])) + (" …" if len(classes) > 10 else "")
        raise ColumnError(name, row, f"{shown(found.of_row(row))} is no class; classes are {known}")
    return found


def _has_fractions(array: Column, missing: Missing) -> bool:
    if not types.is_floating(array.type):
        return False
    numbers = read_numbers(array, "", missing)
    return bool((numbers[~np.isnan(numbers)] % 1 != 0).any())


def _numbers(array: Column, name: str, missing: Missing) -> NDArray[np.float32]:
    if _kind_of(array.type) != "tensor":
        return read_numbers(array, name, missing).astype(np.float32)
    tensors = read_tensors(array, name, missing, absent=np.nan)
    return np.clip(tensors.values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _indices(array: Column, name: str, missing: Missing) -> NDArray[np.int64]:
    if types.is_integer(array.type) and not len(missing.numbers):
        return array.fill_null(UNLABELLED).to_numpy(zero_copy_only=False).astype(np.int64)
    if _kind_of(array.type) == "tensor":
        values = read_tensors(array, name, missing, absent=UNLABELLED).values
    else:
        values = np.nan_to_num(read_numbers(array, name, missing), nan=UNLABELLED)
    if values.dtype.kind == "f":
        wrong = np.flatnonzero((np.abs(values) % 1 != 0).reshape(len(values), -1).any(axis=1))
        if len(wrong):
            raise ColumnError(name, int(wrong[0]), "a number with a fraction is no index")
    return np.array(values, dtype=np.int64)
