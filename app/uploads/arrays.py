"""NPZ and safetensors files as batches: arrays of one length, numbers as columns and the rest as tensors."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from app.uploads.column_types import check_names, converted
from app.uploads.columnar import Columnar
from app.uploads.faults import UnreadableError

_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 * 2**20
_CHUNK = 2**20

Rows = Callable[[int, int], NDArray[Any]]


@dataclass(frozen=True)
class _Values:
    """An array whose rows are read when they are wanted."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Rows


@contextlib.contextmanager
def npz_batches(path: Path, folder: Path, max_columns: int, max_bytes: int) -> Generator[Columnar]:
    """Open an NPZ file, its arrays unpacked into ``folder`` and mapped from there.

    Raises:
        UnreadableError: If it is damaged, pickled, too large, or its arrays are no columns of one table.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            check_names([_name(info) for info in members], max_columns)
            unpacked = _unpack(archive, members, folder, max_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UnreadableError(f"the NPZ data are damaged or break off: {error}") from None
    yield _batches({name: _mapped(file, name) for name, file in unpacked.items()})


@contextlib.contextmanager
def safetensors_batches(path: Path, max_columns: int) -> Generator[Columnar]:
    """Open a safetensors file.

    Raises:
        UnreadableError: If it is damaged, or its tensors are no columns of one table.
    """
    try:
        with cast("Any", safe_open(path, framework="numpy")) as file:
            names: list[str] = list(file.keys())
            check_names(names, max_columns)
            yield _batches({name: _sliced(file, name) for name in names})
    except SafetensorError as error:
        raise UnreadableError(f"the safetensors data are damaged or break off: {error}") from None


def _name(info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(".npy"):
        raise UnreadableError(f"the archive holds {info.filename[:100]!r}, which is no array")
    return info.filename.removesuffix(".npy")


def _unpack(
    archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], folder: Path, max_bytes: int
) -> dict[str, Path]:
    total = 0
    files: dict[str, Path] = {}
    for i, info in enumerate(members):
        # The member's own name is no part of the path.
        target = folder / f"{i}.npy"
        with archive.open(info) as source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                total += len(chunk)
                if total > max_bytes:
                    raise UnreadableError(
                        f"unpacked, the file has more than {max_bytes:,} bytes: is this a decompression bomb?"
                    )
                file.write(chunk)
        files[_name(info)] = target
    return files


def _mapped(path: Path, name: str) -> _Values:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError) as error:
        what = "pickled objects are refused" if "Python objects" in str(error) else str(error)
        raise UnreadableError(f"this is no array of numbers or text: {what}", column=name) from None
    return _Values(array.shape, array.dtype, lambda start, stop: array[start:stop])


def _sliced(file: Any, name: str) -> _Values:
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    try:
        dtype = (part[:0] if shape else file.get_tensor(name)).dtype
    except (TypeError, AttributeError, SafetensorError) as error:
        raise UnreadableError(
            f"values of type {part.get_dtype()} are not supported: {error}", column=name
        ) from None
    return _Values(shape, dtype, lambda start, stop: part[start:stop])


def _batches(columns: Mapping[str, _Values]) -> Columnar:
    rows: int | None = None
    for name, values in columns.items():
        if not values.shape:
            raise UnreadableError("the array has no first dimension to hold rows", column=name)
        if rows not in (None, values.shape[0]):
            raise UnreadableError(f"{values.shape[0]:,} rows where others have {rows:,}", column=name)
        rows = values.shape[0]
        if math.prod(values.shape[1:]) == 0:
            raise UnreadableError(f"one row of shape {list(values.shape[1:])} holds nothing", column=name)
    schema = pa.schema([(name, _arrow_type(values, name)) for name, values in columns.items()])
    row_bytes = sum(math.prod(v.shape[1:]) * v.dtype.itemsize for v in columns.values())
    step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows or 0, step):
            arrays = [
                _arrow(values.rows(start, min(start + step, rows or 0)), dtype, name)
                for (name, values), dtype in zip(columns.items(), schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return converted(schema, read())


def _arrow_type(values: _Values, name: str) -> pa.DataType:
    dtype = values.dtype.newbyteorder("=")
    match dtype.kind:
        case "b" if len(values.shape) > 1:
            value = pa.uint8()
        case "b" | "i" | "u" | "f" if dtype.itemsize <= 8:
            value = pa.from_numpy_dtype(dtype)
        case "U" | "S" if len(values.shape) == 1:
            value = pa.string()
        case "M" if len(values.shape) == 1:
            value = pa.timestamp("us")
        case _:
            raise UnreadableError(f"values of type {values.dtype} are not supported", column=name)
    return pa.fixed_shape_tensor(value, values.shape[1:]) if len(values.shape) > 1 else value


def _arrow(rows: NDArray[Any], dtype: pa.DataType, name: str) -> pa.Array:
    if rows.dtype.kind == "S":
        try:
            rows = np.char.decode(rows, "utf-8")
        except UnicodeDecodeError as error:
            raise UnreadableError(f"a text is not UTF-8: {error}", column=name) from None
    if rows.dtype.kind == "M":
        rows = rows.astype("datetime64[us]")
    native = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
    if isinstance(dtype, pa.FixedShapeTensorType):
        flat = pa.array(native.reshape(-1).astype(dtype.value_type.to_pandas_dtype(), copy=False))
        size = math.prod(dtype.shape)
        return pa.ExtensionArray.from_storage(dtype, pa.FixedSizeListArray.from_arrays(flat, size))
    return pa.array(native, dtype)
