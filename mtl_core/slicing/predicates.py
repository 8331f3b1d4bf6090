"""Which examples a predicate holds for, told from the columns of the fields that it names."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.specs import (
    AllOf,
    AnyOf,
    Comparison,
    MaskField,
    Negation,
    Predicate,
    Scalar,
    SliceSpec,
    TaskSpec,
    kind_of,
)

Column = NDArray[Any]
Mask = NDArray[np.bool_]


def mask(predicate: Predicate, columns: Mapping[str, Column], pointer: str = "") -> Mask:
    """Say for which examples a predicate holds.

    A missing value (NaN or None) satisfies ``is_null`` and nothing else, so ``!=`` and ``not_in`` do not hold there;
    ``not`` is plain negation, so the negation of whatever does not hold does.

    Whether a predicate suits the columns shows in columns of length 0 too, but for what a mask's numbers and the
    objects of a column are.

    Args:
        predicate: What is asked.
        columns: One array for each field: of numbers, booleans or texts (objects, None where missing), ``[n]``, or
            ``[n, k]`` of which ``index`` picks one.
        pointer: Where the predicate stands in its document, for errors.

    Returns:
        Booleans ``[n]``.

    Raises:
        SpecError: If a field is unknown, its values are of another kind than what they are compared with, or the index
            is none of the field's; points to the part that is wrong.

    Example:
        >>> old = Comparison(field="age", op=">", value=60)
        >>> mask(old, {"age": np.array([59.0, 61.0, np.nan])}).tolist()
        [False, True, False]
    """
    return _evaluate(predicate, _Values(columns), pointer)


def fields_of(predicate: Predicate) -> list[str]:
    """Return the fields that a predicate looks at, each once, in order of first use."""
    return list(dict.fromkeys(_fields(predicate)))


def slice_masks(slices: Sequence[SliceSpec], columns: Mapping[str, Column]) -> dict[str, Mask]:
    """Say for each slice which examples belong to it.

    Args:
        slices: A task's.
        columns: As for :func:`mask`.

    Returns:
        Booleans ``[n]`` by the slice's name.

    Raises:
        SpecError: As :func:`mask`, with the fault of every slice that has one; points into the task's spec.
    """
    masks: dict[str, Mask] = {}
    faults: list[Fault] = []
    values = _Values(columns)
    for i, part in enumerate(slices):
        try:
            masks[part.name] = _evaluate(part.where, values, pointer_to("slices", i, "where"))
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    return masks


def slice_fields(spec: TaskSpec) -> list[str]:
    """Return the fields that a task's slices look at, each once; the task's own path need not read them."""
    return list(dict.fromkeys(name for part in spec.slices for name in _fields(part.where)))


def _fields(predicate: Predicate) -> Iterator[str]:
    match predicate:
        case Comparison():
            yield predicate.field
        case MaskField():
            yield predicate.mask
        case AllOf(all_of=parts) | AnyOf(any_of=parts):
            for part in parts:
                yield from _fields(part)
        case Negation():
            yield from _fields(predicate.negated)


def _evaluate(predicate: Predicate, values: _Values, pointer: str) -> Mask:
    match predicate:
        case AllOf(all_of=parts):
            return np.logical_and.reduce(_each(parts, values, f"{pointer}/and"))
        case AnyOf(any_of=parts):
            return np.logical_or.reduce(_each(parts, values, f"{pointer}/or"))
        case Negation():
            return ~_evaluate(predicate.negated, values, f"{pointer}/not")
        case MaskField():
            return _is_true(predicate.mask, values.of(predicate.mask, None, pointer), f"{pointer}/mask")
        case Comparison():
            return _compare(
                predicate, values.of(predicate.field, predicate.index, pointer), f"{pointer}/value"
            )


def _each(parts: Sequence[Predicate], values: _Values, pointer: str) -> list[Mask]:
    return [_evaluate(part, values, f"{pointer}/{i}") for i, part in enumerate(parts)]


@dataclass(frozen=True)
class _Field:
    """One value an example: ``values [n]`` of a kind, which mean nothing where ``missing [n]`` is true."""

    kind: Literal["boolean", "number", "text", "nothing"]
    values: Column
    missing: Mask


class _Values:
    """The values of fields, told apart once however many predicates look at them."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._known: dict[tuple[str, int | None], _Field] = {}

    def of(self, name: str, index: int | None, pointer: str) -> _Field:
        if (name, index) not in self._known:
            self._known[name, index] = self._read(name, index, pointer)
        return self._known[name, index]

    def _read(self, name: str, index: int | None, pointer: str) -> _Field:
        if name not in self._columns:
            known = ", ".join(sorted(self._columns)[:20]) or "none"
            raise SpecError.at(pointer, f"there is no field '{name}'; there are: {known}")
        column = self._columns[name]
        if column.ndim == 1:
            if index is not None:
                raise SpecError.at(pointer, f"field '{name}' has one value for each example, and so no index")
        elif column.ndim > 2:
            shape = list(column.shape[1:])
            raise SpecError.at(
                pointer, f"field '{name}' has values of shape {shape}, which nothing compares with"
            )
        else:
            size = column.shape[1]
            if index is None:
                raise SpecError.at(
                    pointer, f"field '{name}' has {size} values for each example: say which by index"
                )
            if index >= size:
                raise SpecError.at(
                    pointer, f"field '{name}' has {size} values for each example, and none at {index}"
                )
            column = column[:, index]
        return _told_apart(name, column, pointer)


def _told_apart(name: str, column: Column, pointer: str) -> _Field:
    present = np.zeros(len(column), dtype=bool)
    match column.dtype.kind:
        case "b":
            return _Field("boolean", column, present)
        case "i" | "u":
            return _Field("number", column, present)
        case "f":
            return _Field("number", column, np.isnan(column))
        case "U":
            return _Field("text", column, present)
        case "O":
            return _of_objects(name, column, pointer)
        case _:
            kind = column.dtype
            raise SpecError.at(pointer, f"field '{name}' is of {kind}, not of numbers, booleans or texts")


def _of_objects(name: str, column: Column, pointer: str) -> _Field:
    items = cast("list[object]", column.tolist())
    missing = np.fromiter((_is_missing(item) for item in items), bool, len(items))
    kinds: set[type] = {type(item) for item in items if not _is_missing(item)}
    fill = np.where(missing, 0, column)
    if not kinds:
        return _Field("nothing", column, missing)
    if kinds == {str}:
        return _Field("text", column, missing)
    if kinds == {bool}:
        return _Field("boolean", fill.astype(bool), missing)
    if kinds <= {int, float}:
        return _Field("number", fill.astype(np.float64), missing)
    names = " and ".join(sorted(kind.__name__ for kind in kinds))
    raise SpecError.at(
        pointer, f"field '{name}' holds values of type {names}: slices compare those of one kind"
    )


def _is_missing(item: object) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _is_true(name: str, field: _Field, pointer: str) -> Mask:
    present = ~field.missing
    if field.kind == "text":
        raise SpecError.at(pointer, f"field '{name}' is text: a mask is of booleans, or of 0 and 1")
    if field.kind == "number":
        odd = present & (field.values != 0) & (field.values != 1)
        if odd.any():
            first = field.values[odd][0]
            raise SpecError.at(
                pointer, f"field '{name}' has the value {first}: a mask is of booleans, or of 0 and 1"
            )
    return present if field.kind == "nothing" else present & (field.values == 1)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compare(asked: Comparison, field: _Field, pointer: str) -> Mask:
    if asked.op == "is_null":
        return field.missing
    wanted = cast("list[Scalar]", asked.value if isinstance(asked.value, list) else [asked.value])
    kind = kind_of(wanted[0])
    if field.kind == "nothing":
        return ~field.missing
    if field.kind != kind:
        raise SpecError.at(
            pointer,
            f"field '{asked.field}' is of {field.kind}s, and {wanted[0]!r} is a {kind}: they do not compare",
        )
    if asked.op in _OPERATORS:
        found = _holds(_OPERATORS[asked.op], field.values, wanted[0])
    else:
        among = np.logical_or.reduce([_holds(operator.eq, field.values, value) for value in wanted])
        found = among if asked.op == "in" else ~among
    return found & ~field.missing


def _holds(compare: Callable[[Any, Any], Any], values: Column, value: Scalar) -> Mask:
    # A number too large for a column of float32 is infinite there, which is what the comparison should take it for.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(compare(values, value), dtype=bool)
