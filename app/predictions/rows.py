"""Rows to predict, in each of the forms in which they come → fields as the network reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import simdjson
from numpy.typing import NDArray

from app.datasets.tensors import MAX_DIMENSIONS, as_dtype, tensor_from_json
from app.predictions.batching import Fields
from app.predictions.loaded import LoadedVersion, Route
from app.problems import Invalid
from mtl_core.building.fields import FieldShape
from mtl_core.errors import Fault, pointer_to
from mtl_core.preprocessing import (
    ColumnError,
    FittedField,
    SentenceEncoder,
    columns_from_lists,
    columns_from_records,
)
from mtl_core.preprocessing.columns import Column

_DTYPES = {"float32": np.dtype(np.float32), "int64": np.dtype(np.int64)}


class Rows(Protocol):
    """Rows in one of the forms in which they come."""

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return what a route reads of the rows.

        Raises:
            Invalid: If a field or column is missing, unknown, or not of the form that the version was trained on.
        """
        ...

    def raw(self, loaded: LoadedVersion, n: int) -> dict[str, Any] | None:
        """Return the first ``n`` rows as ``records`` or ``columns``, as in a JSON body; None if they are fields."""
        return None


@dataclass(frozen=True)
class JsonInputs(Rows):
    """Values of each field, as JSON has them.

    Attributes:
        inputs: Field → ``n`` values of one shape.
    """

    inputs: Mapping[str, list[Any]]

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the fields; every fault names the value that is at fault."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in self.inputs.items():
            if (known := loaded.fields.get(name)) is not None:
                pointer = pointer_to("inputs", name)
                arrays[name] = as_dtype(tensor_from_json(values, pointer), known.dtype, pointer).numpy()
        return _checked(loaded, route, self.inputs, arrays)


@dataclass(frozen=True)
class ParsedInputs:
    """Values of each field in a parsed JSON document, read straight into arrays.

    Attributes:
        inputs: Field → nested arrays of numbers.
        brackets: How many arrays there are in all of them together.
    """

    inputs: Mapping[str, simdjson.Array]
    brackets: int

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields | None:
        """Return the fields; None where they are not plainly what they should be, which :class:`JsonInputs` tells."""
        found: dict[str, NDArray[Any]] = {}
        brackets = 0
        n = -1
        for name, values in self.inputs.items():
            known = loaded.fields.get(name)
            shape = _shape(values)
            if (
                known is None
                or shape is None
                or known.shape not in (None, shape[1:])
                or n not in (-1, shape[0])
            ):
                return None
            n = shape[0]
            arrays = 1
            for length in shape[:-1]:
                brackets += arrays
                arrays *= length
            brackets += arrays
            array = _numbers(values, known)
            if array is None or array.size != arrays * shape[-1]:
                return None
            found[name] = array.reshape(shape)
        # Arrays hold numbers only where there are no more of them than the shapes say.
        if brackets != self.brackets or any(name not in found for name in route.fields):
            return None
        return found


def _shape(values: simdjson.Array) -> list[int] | None:
    """Return the shape of nested arrays, as far as those tell that are not innermost; None if it has none."""
    shape: list[int] = []
    level = [values]
    while len(shape) <= MAX_DIMENSIONS:
        length = len(level[0])
        if not length or any(len(array) != length for array in level):
            return None
        shape.append(length)
        # The stubs do not know that an array may hold numbers.
        inner = [cast("object", value) for array in level[:1] for value in array]
        if not isinstance(inner[0], simdjson.Array):
            return shape
        inner += [cast("object", value) for array in level[1:] for value in array]
        level = [value for value in inner if isinstance(value, simdjson.Array)]
        if len(level) < len(inner):
            return None
    return None


def _numbers(values: simdjson.Array, known: FieldShape) -> NDArray[Any] | None:
    """Return all numbers of nested arrays; None if one is none, or does not suit the field."""
    try:
        if known.dtype == "int64":
            return np.frombuffer(values.as_buffer(of_type="i"), np.int64)
        numbers = np.frombuffer(values.as_buffer(of_type="d"), np.float64)
    except (TypeError, ValueError):
        return None
    with np.errstate(over="ignore"):
        array = numbers.astype(np.float32)
    return array if np.isfinite(array).all() else None


@dataclass(frozen=True)
class Arrays(Rows):
    """Values of each field as arrays, from a binary body.

    Attributes:
        arrays: Field → ``[n, …]``.
    """

    arrays: Mapping[str, NDArray[Any]]

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the fields, in the dtype that the version reads."""
        arrays = {
            name: _as_read(name, values, loaded.fields[name])
            for name, values in self.arrays.items()
            if name in loaded.fields
        }
        return _checked(loaded, route, self.arrays, arrays)


def _as_read(name: str, values: NDArray[Any], known: FieldShape) -> NDArray[Any]:
    dtype = _DTYPES[known.dtype]
    if values.dtype == dtype:
        array = values
    elif values.dtype.kind not in "biuf":
        raise Invalid.at(pointer_to("inputs", name), f"{values.dtype} is no type of numbers")
    elif dtype.kind == "i" and values.dtype.kind == "f" and not _are_integers(values):
        raise Invalid.at(
            pointer_to("inputs", name), "an embedding reads this field: its values must be integers"
        )
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            array = values.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise Invalid.at(pointer_to("inputs", name, *at), "this is no finite number in float32")
    return array


def _are_integers(values: NDArray[Any]) -> bool:
    return bool((np.isfinite(values) & (values == np.trunc(values))).all())


@dataclass(frozen=True)
class RawRows(Rows):
    """Rows as they would stand in the data, to be encoded by the same code and statistics as the training data was.

    Attributes:
        records: An object for each row; None where they come by column.
        columns: A list of values for each column; None where they come by row.
    """

    records: list[dict[str, Any]] | None = None
    columns: dict[str, list[Any]] | None = None

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the fields, encoded."""
        fields = _encodable(loaded, route)
        if self.columns is not None:
            return encoded(loaded, route, columns_from_lists(fields, self.columns))
        raw = columns_from_records(fields, self.records or [])
        return encoded(loaded, route, raw, by_record=True)

    def raw(self, loaded: LoadedVersion, n: int) -> dict[str, Any]:
        """Return the first rows."""
        if self.columns is not None:
            return {"columns": {name: values[:n] for name, values in self.columns.items()}}
        return {"records": (self.records or [])[:n]}


def _encodable(loaded: LoadedVersion, route: Route) -> dict[str, FittedField]:
    known = loaded.preprocessing.fields
    for field in route.fields:
        if field not in known:
            raise Invalid.at(
                "", f"the version was not trained on raw columns for field '{field}': send inputs"
            )
    return {field: known[field] for field in route.fields}


def encoded(
    loaded: LoadedVersion, route: Route, raw: Mapping[str, Column], *, by_record: bool = False
) -> Fields:
    """Encode raw columns as a route reads them.

    Args:
        loaded: The version.
        route: The route.
        raw: Raw values by column.
        by_record: Whether the client sent them by record, for errors to point there; default False.

    Raises:
        Invalid: If the version was not trained on raw columns, or at a value that its column's type does not take.
    """
    try:
        return encode_fields(_encodable(loaded, route), raw, loaded.encoders, loaded.fields)
    except ColumnError as error:
        row = 0 if error.row is None else error.row
        at = ("records", row, error.column) if by_record else ("columns", error.column, row)
        raise Invalid.at(pointer_to(*at), error.detail) from None


def encode_fields(
    fields: Mapping[str, FittedField],
    raw: Mapping[str, Column],
    encoders: Mapping[str, SentenceEncoder],
    shapes: Mapping[str, FieldShape],
) -> Fields:
    """Encode raw columns as fields.

    Args:
        fields: How each is made.
        raw: Raw values by column.
        encoders: Sentence encoders for columns of text.
        shapes: How the network reads them.

    Raises:
        ColumnError: At a value that its column's type does not take.
    """
    return {
        name: field.encode(raw, encoders).astype(_DTYPES[shapes[name].dtype], copy=False)
        for name, field in fields.items()
    }


def _checked(
    loaded: LoadedVersion, route: Route, given: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Fields:
    """Return arrays that are fields of the version, all of those that a route reads, with as many rows each."""
    faults = [
        Fault("/inputs", f"field '{field}' is required") for field in route.fields if field not in given
    ]
    faults += [
        Fault(pointer_to("inputs", field), f"the model reads no such field; it reads {sorted(loaded.fields)}")
        for field in given
        if field not in loaded.fields
    ]
    for field, array in arrays.items():
        wanted, shape = loaded.fields[field].shape, list(array.shape[1:])
        if not array.size:
            faults.append(Fault(pointer_to("inputs", field), "there is no row"))
        elif wanted is not None and shape != wanted:
            faults.append(
                Fault(
                    pointer_to("inputs", field),
                    f"a row has shape {shape}; the model was trained on {wanted}",
                )
            )
    lengths = {field: len(array) for field, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        faults.append(Fault("/inputs", f"fields have different numbers of rows: {lengths}"))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    return arrays
