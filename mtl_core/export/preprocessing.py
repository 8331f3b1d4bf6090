"""How fields are made of raw columns, as it is written beside an exported model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from mtl_core.building.fields import FieldShape
from mtl_core.errors import MODULE_FAILURES, BundleError, first_line
from mtl_core.export.files import words_of
from mtl_core.export.left_out import what_is_left_out
from mtl_core.files import written_whole
from mtl_core.preprocessing import FittedField, SentenceEncoder
from mtl_core.preprocessing.columns import Column
from mtl_core.preprocessing.fitted import FittedIndex, FittedOneHot

PREPROCESSING, NOTE = "preprocessing.json", "README.md"
"""What is written beside a model: the fitted numbers, and a note for people."""


class _Preprocessing(BaseModel):
    """What the library knows of a preprocessing; who wrote it may know more."""

    model_config = ConfigDict(extra="allow")

    fields: dict[str, FittedField] = {}


def beside(fields: Mapping[str, FieldShape], preprocessing: str | None = None) -> dict[str, bytes]:
    """Return the files that stand beside an exported model, by name: the preprocessing, where there is one, and a note.

    Args:
        fields: Shape and dtype of one example of each field.
        preprocessing: As for :func:`fitted_fields`; default: fields are tensors from the first.

    Raises:
        BundleError: As :func:`fitted_fields`.
    """
    if preprocessing is None:
        return {NOTE: what_is_left_out(fields).encode()}
    note = what_is_left_out(fields, fitted_fields(preprocessing, fields))
    return {PREPROCESSING: preprocessing.encode(), NOTE: note.encode()}


def write_beside(
    folder: str | os.PathLike[str], fields: Mapping[str, FieldShape], preprocessing: str | None = None
) -> None:
    """Write ``preprocessing.json``, where there is one, and ``README.md`` beside an exported program or ONNX file.

    Args:
        folder: Where the model is; made if it is not there.
        fields: Shape and dtype of one example of each field of the version, those that the model does not read too.
        preprocessing: How raw columns become fields: a JSON object, with a
            :class:`~mtl_core.preprocessing.FittedField` for each field under ``fields``; default: fields are tensors.

    Raises:
        BundleError: If the preprocessing is none, or not of these fields.
    """
    for name, content in beside(fields, preprocessing).items():
        with written_whole(Path(folder) / name) as scratch:
            scratch.write_bytes(content)


def fitted_fields(preprocessing: str, fields: Mapping[str, FieldShape]) -> dict[str, FittedField]:
    """Return how fields are made of raw columns.

    Args:
        preprocessing: A JSON object, with fitted fields under ``fields`` and whatever else its writer knows.
        fields: What the tasks were trained on.

    Raises:
        BundleError: If it is none, makes other fields, or ones that cannot encode a row.
    """
    try:
        fitted = _Preprocessing.model_validate_json(preprocessing).fields
    except ValidationError as error:
        raise BundleError(f"'{PREPROCESSING}': {words_of(error)}") from error
    for name, field in fitted.items():
        try:
            shape, dtype = field.shape, field.dtype
        except MODULE_FAILURES as error:
            raise BundleError(f"'{PREPROCESSING}': field '{name}' has no columns") from error
        known = fields.get(name)
        if known is None or known.shape != shape or known.dtype != dtype:
            given = "no such field" if known is None else f"{known.dtype} {known.shape}"
            raise BundleError(
                f"'{PREPROCESSING}' makes field '{name}', {dtype} {shape}; the tasks read {given}"
            )
        try:
            _try_out(field)
        except MODULE_FAILURES as error:
            raise BundleError(
                f"'{PREPROCESSING}': field '{name}' encodes no row: {first_line(error)}"
            ) from error
    return fitted


def _try_out(field: FittedField) -> None:
    """Refuse a field that cannot encode one row: its columns may be of kinds that do not go together."""
    columns: dict[str, Column] = {
        column.name: pa.array(["a"]) if isinstance(column, FittedOneHot | FittedIndex) else pa.nulls(1)
        for column in field.columns
    }
    # None of them is asked anything of a text that is missing.
    encoders: dict[str, SentenceEncoder] = dict.fromkeys(field.encoders, _no_vectors)
    found = field.encode(columns, encoders)
    if found.shape != (1, *field.shape) or found.dtype != field.dtype:
        raise ValueError("it encodes a row in another form than it says")


def _no_vectors(texts: list[str]) -> NDArray[np.float32]:
    return np.zeros((len(texts), 0), dtype=np.float32)
