"""What an exported model leaves to its caller: how raw columns become the fields that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mtl_core.building.fields import FieldShape
from mtl_core.preprocessing.datetimes import PERIODS
from mtl_core.preprocessing.fitted import (
    FittedBoolean,
    FittedDatetime,
    FittedIndex,
    FittedList,
    FittedNumber,
    FittedOneHot,
)
from mtl_core.preprocessing.fitted_arrays import FittedSequence, FittedTensor, FittedText
from mtl_core.preprocessing.fitted_field import FittedColumn, FittedField

_PREAMBLE = """\
# What the caller does

The model takes fields, tensors of n rows each, and answers logits, probabilities or values, and predictions. How raw
columns become fields is not part of it. It was fitted to the training data once, and must be done to every row just so;
the numbers below, rounded here, stand in full in `preprocessing.json`. Predicted classes are numbers from 0 on; what
they are called, where they have names, stands there under `class_names`.
"""

_ITSELF = "The numbers are given as they are: the model was trained on nothing rawer.\n"


def what_is_left_out(
    fields: Mapping[str, FieldShape], preprocessing: Mapping[str, FittedField] | None = None
) -> str:
    """Say, field by field, what a caller must do to raw rows before an exported model can answer them.

    Args:
        fields: Shape and dtype of one example of each field.
        preprocessing: How each field is made of raw columns; fields that are not there are tensors from the first.

    Returns:
        A text in Markdown, to be kept beside the model.

    Example:
        >>> print(what_is_left_out({"x": FieldShape([4], "float32")}).splitlines()[-3])
        ## Field `x`: float32 `[n, 4]`
    """
    parts = [_PREAMBLE]
    for name, field in fields.items():
        shape = "[n, …]" if field.shape is None else str(["n", *field.shape]).replace("'", "")
        fitted = (preprocessing or {}).get(name)
        body = _ITSELF if fitted is None else "\n".join(_of_columns(name, fitted)) + "\n"
        parts.append(f"## Field `{name}`: {field.dtype} `{shape}`\n\n{body}")
    return "\n".join(parts)


def _of_columns(name: str, field: FittedField) -> Iterator[str]:
    yield f"Of the columns below, in this order; in `preprocessing.json` they are `fields`, `{name}`, `columns`."
    yield ""
    start = offset = 0
    for column in field.columns:
        if isinstance(column, FittedIndex):
            yield f"- index {start}, column `{column.name}`: {_index_words(column, offset)}"
            start, offset = start + 1, offset + column.size
        elif isinstance(column, FittedText | FittedSequence | FittedTensor):
            yield f"- the whole field, column `{column.name}`: {_words(column)}"
        else:
            end = start + column.width - 1
            place = f"number {start}" if end == start else f"numbers {start} to {end}"
            yield f"- {place}, column `{column.name}`: {_words(column)}"
            start = end + 1
        if column.missing:
            yield f"  (missing, too: {', '.join(f'`{value!r}`' for value in column.missing)})"


def _index_words(column: FittedIndex, offset: int) -> str:
    unknown, missing, first = offset, offset + 1, offset + 2
    text = f"a category as an index: {unknown} for unknown, {missing} for missing, then from {first} on "
    return text + _category_words(column)


def _category_words(column: FittedIndex | FittedOneHot) -> str:
    if column.hash_buckets is None:
        return f"the {len(column.values)} `values` in their order"
    return (
        f"{column.hash_buckets} buckets: the first 8 bytes of BLAKE2b with an 8-byte digest of the value in UTF-8, read"
        " as a big-endian integer, modulo the number of buckets"
    )


def _words(column: FittedColumn) -> str:
    match column:
        case FittedNumber():
            value = "sign(x)·log(1 + |x|)" if column.log else "x"
            text = f"({value} - {column.center:.6g}) / {column.scale:.6g}, where a missing x is {column.fill:.6g}"
            text += _indicator(column.indicator)
        case FittedBoolean():
            text = "1 for true, 0 for false, 0.5 for missing" + _indicator(column.indicator)
        case FittedOneHot():
            text = (
                "a category as 1 in its place and 0 elsewhere: places for unknown, for missing, then for "
                + _category_words(column)
            )
        case FittedDatetime():
            text = (
                ", ".join(_date_words(column))
                + ", of the moment in UTC, all 0 where it is missing"
                + _indicator(column.indicator)
            )
        case FittedList():
            text = f"a list's first {column.length} numbers, padded with 0"
        case FittedIndex():
            text = _index_words(column, 0)
        case FittedText() if column.encoder_info is not None:
            text = (
                f"a text's vector of {column.encoder_info.dim} numbers by the sentence encoder '{column.encoder}'"
                f" (SHA-256 of its files: {column.encoder_info.sha256}), 0 where it is missing or empty"
            )
        case FittedText():
            case = ", lowercased" if column.lowercase else ""
            text = (
                f"the first {column.max_length} words of a text in Unicode's form NFC{case}, split into runs of"
                " letters, digits and underscores and runs of other signs: 1 for an unknown word, then from 2 on the"
                f" {len(column.words)} `words` in their order, padded with 0"
            )
        case FittedSequence():
            text = (
                f"a list's first {column.max_length} items: 1 for unknown or missing, then from 2 on the"
                f" {len(column.values)} `values` in their order, padded with 0"
            )
        case FittedTensor() if column.dtype == "int64":
            text = "integers as they are, 0 where the tensor is missing"
        case FittedTensor():
            text = f"(x - {column.center:.6g}) / {column.scale:.6g} of every number, 0 where the tensor is missing"
    return text


def _date_words(column: FittedDatetime) -> Iterator[str]:
    for part in column.parts:
        if part in PERIODS:
            yield f"sine and cosine of 2π·{part} / {PERIODS[part]}, the first {part} being 0"
        elif part == "year":
            yield f"(year - {column.year_center:.6g}) / {column.year_scale:.6g}"
        else:
            since = f"days since 1970 - {column.first:.6g} - {column.elapsed_center:.6g}"
            yield f"({since}) / {column.elapsed_scale:.6g}"


def _indicator(wanted: bool) -> str:
    return "; then 1 where missing, else 0" if wanted else ""
