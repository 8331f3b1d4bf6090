"""Numbers in JSON → tensors → columns of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import torch

from app.problems import Invalid
from mtl_core.building.fields import TORCH_DTYPES
from mtl_core.data import UNLABELLED
from mtl_core.errors import pointer_to
from mtl_core.specs import DType

MAX_DIMENSIONS = 8


def tensor_from_json(values: list[Any], pointer: str) -> torch.Tensor:
    """Turn nested lists of numbers into a tensor.

    Args:
        values: ``n`` values of one shape: numbers, booleans, or lists of them.
        pointer: Where they stand in the body, for errors.

    Returns:
        ``[n, …]``, int64 where every number is an integer or boolean, else float32.

    Raises:
        Invalid: At the first value that is no finite number or makes its row longer or shorter than the others.
    """
    try:
        tensor = torch.tensor(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        where, detail = next(_faults(values, pointer), (pointer, str(error)))
        raise Invalid.at(where, detail) from None
    _check_depth(pointer, tensor.ndim - 1)
    if not tensor.numel():
        raise Invalid.at(*next(_faults(values, pointer)))
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            at = cast("list[int]", (~tensor.isfinite()).nonzero()[0].tolist())
            raise Invalid.at(pointer + pointer_to(*at), "this number is too large for float32")
        return tensor.float()
    return tensor.long()


def labels_from_json(values: list[Any], pointer: str) -> torch.Tensor:
    """Turn labels into a tensor as :func:`tensor_from_json` does, null becoming -1: not labelled."""
    return tensor_from_json([_without_null(value, pointer) for value in values], pointer)


def as_dtype(tensor: torch.Tensor, dtype: DType, pointer: str) -> torch.Tensor:
    """Return a field in the dtype that the tasks reading it need.

    Raises:
        Invalid: If integers are needed and the field holds fractions.
    """
    if dtype == "int64" and tensor.is_floating_point() and bool((tensor != tensor.trunc()).any()):
        raise Invalid.at(pointer, "an embedding reads this field: its values must be integers")
    return tensor.to(TORCH_DTYPES[dtype])


def column_of(tensor: torch.Tensor) -> pa.Array:
    """Return a tensor ``[n, …]`` as a column of ``n`` values, arrays of one shape where it has more dimensions."""
    values = pa.array(tensor.reshape(-1).numpy())
    if tensor.ndim == 1:
        return values
    shape = tensor.shape[1:]
    arrays = pa.FixedSizeListArray.from_arrays(values, shape.numel())
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(values.type, list(shape)), arrays)


def _without_null(value: Any, pointer: str, depth: int = 1) -> Any:
    if isinstance(value, list):
        _check_depth(pointer, depth)
        return [_without_null(entry, pointer, depth + 1) for entry in cast("list[Any]", value)]
    return UNLABELLED if value is None else value


def _check_depth(pointer: str, depth: int) -> None:
    if depth > MAX_DIMENSIONS:
        raise Invalid.at(pointer, f"values have at most {MAX_DIMENSIONS} dimensions")


def _faults(values: list[Any], pointer: str) -> Iterator[tuple[str, str]]:
    """Yield what keeps values from being a tensor, by comparing each with the first."""
    yield from _differences(values[0], values[0], f"{pointer}/0")
    for i, value in enumerate(values[1:], start=1):
        yield from _differences(values[0], value, f"{pointer}/{i}")


def _differences(first: Any, value: Any, pointer: str, depth: int = 1) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        _check_depth(pointer, depth)
        entries = cast("list[Any]", value)
        if not entries:
            yield pointer, "an empty list holds no number"
        elif not isinstance(first, list):
            yield pointer, "this is a list where the first value is a number"
        elif len(entries) != len(cast("list[Any]", first)):
            yield (
                pointer,
                f"this has {len(entries)} entries where the first value has {len(cast('list[Any]', first))}",
            )
        else:
            for i, entry in enumerate(entries):
                # The first value is compared with itself, but not its later entries with its first.
                beside = entries[0] if entry is cast("list[Any]", first)[i] else cast("list[Any]", first)[i]
                yield from _differences(beside, entry, f"{pointer}/{i}", depth + 1)
    elif isinstance(first, list):
        yield pointer, "this is no list where the first value is one"
    elif not isinstance(value, int | float):
        yield pointer, f"{'null' if value is None else type(value).__name__} is no number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield pointer, "this integer is too large for int64"
