"""Tensors of the Open Inference Protocol ↔ arrays, in JSON and as bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.problems import Invalid

BYTES = "BYTES"

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_DATATYPES = {dtype: name for name, dtype in _DTYPES.items()}

Values = NDArray[Any] | list[str]
"""Numbers ``[n, …]``, or ``n`` texts."""


def datatype_of(values: Values) -> str:
    """Return the protocol's name for the type of some values."""
    return BYTES if isinstance(values, list) else _DATATYPES[values.dtype]


def from_bytes(content: bytes, datatype: str, shape: Sequence[int], pointer: str) -> Values:
    """Return the tensor that bytes hold.

    Args:
        content: The bytes, little-endian; of texts, each after its length in 4 bytes.
        datatype: The protocol's name for their type.
        shape: The tensor's shape.
        pointer: Where it stands in the request, for errors.

    Raises:
        Invalid: If they are no such tensor.
    """
    if datatype == BYTES:
        return _texts(content, shape, pointer)
    dtype = _dtype(datatype, pointer)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise Invalid.at(pointer, f"{list(shape)} of {datatype} is not what {len(content):,} bytes hold")
    return np.frombuffer(content, dtype).reshape(shape)


def from_json(data: list[Any], datatype: str, shape: Sequence[int], pointer: str) -> Values:
    """Return the tensor that a list holds, flat or nested.

    Raises:
        Invalid: If it is no such tensor.
    """
    flat = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(inner, list) for inner in flat):
            raise Invalid.at(f"{pointer}/data", "the lists are not nested alike")
        flat = list(chain.from_iterable(cast("list[list[Any]]", flat)))
    if len(flat) != math.prod(shape):
        raise Invalid.at(f"{pointer}/data", f"{len(flat):,} values where the shape {list(shape)} has others")
    if datatype == BYTES:
        if not all(isinstance(text, str) for text in flat):
            raise Invalid.at(f"{pointer}/data", "values of BYTES are texts")
        return _one_dimensional(flat, shape, pointer)
    dtype = _dtype(datatype, pointer)
    kinds = (bool,) if dtype.kind == "b" else (int,) if dtype.kind in "iu" else (int, float)
    if not all(type(number) in kinds for number in flat):
        raise Invalid.at(f"{pointer}/data", f"a value is none of {datatype}")
    try:
        return np.array(flat, dtype).reshape(shape)
    except OverflowError:
        raise Invalid.at(f"{pointer}/data", f"a value is too large for {datatype}") from None


def to_bytes(values: Values) -> bytes:
    """Return values as bytes, as :func:`from_bytes` reads them."""
    if isinstance(values, list):
        encoded = [text.encode() for text in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return values.tobytes()


def _dtype(datatype: str, pointer: str) -> np.dtype[Any]:
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise Invalid.at(f"{pointer}/datatype", f"{datatype!r} is none of {', '.join([*_DTYPES, BYTES])}")
    return dtype


def _texts(content: bytes, shape: Sequence[int], pointer: str) -> list[str]:
    texts: list[str] = []
    at = 0
    try:
        while at < len(content):
            (length,) = struct.unpack_from("<I", content, at)
            text = content[at + 4 : at + 4 + length]
            if len(text) < length:
                raise Invalid.at(pointer, "the bytes of a text break off")
            texts.append(text.decode())
            at += 4 + length
    except (struct.error, UnicodeDecodeError):
        raise Invalid.at(
            pointer, "the bytes are no texts in UTF-8, each after its length in 4 bytes"
        ) from None
    if len(texts) != math.prod(shape):
        raise Invalid.at(pointer, f"{len(texts):,} texts where the shape {list(shape)} has others")
    return _one_dimensional(texts, shape, pointer)


def _one_dimensional(texts: list[Any], shape: Sequence[int], pointer: str) -> list[str]:
    if any(size != 1 for size in shape[1:]):
        raise Invalid.at(f"{pointer}/shape", "a column of texts has one for each row")
    return cast("list[str]", texts)
