"""The note beside an exported model: every kind of column, in words that are true of its numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from mtl_core.building.fields import FieldShape
from mtl_core.export import what_is_left_out
from mtl_core.preprocessing import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatetimeColumn,
    FieldPlan,
    FittedField,
    ListColumn,
    NumberColumn,
    SentenceEncoderInfo,
    SequenceColumn,
    Summariser,
    TensorColumn,
    TextColumn,
    fit_field,
)


def fitted(*columns: tuple[ColumnSpec, Any], **options: Any) -> FittedField:
    summaries = {}
    for column, values in columns:
        summariser = Summariser(column)
        summariser.add(values if isinstance(values, pa.Array) else pa.array(values), 0)
        summaries[column.name] = summariser.finish()
    return fit_field(FieldPlan(columns=[column for column, _ in columns]), summaries, **options)


def note(**fields: FittedField) -> str:
    shapes = {name: FieldShape(field.shape, field.dtype) for name, field in fields.items()}
    return what_is_left_out(shapes, fields)


def test_fields_that_are_tensors_from_the_first_are_given_as_they_are() -> None:
    text = what_is_left_out({"image": FieldShape([1, 8, 8], "float32"), "any": FieldShape(None, "int64")})
    assert "## Field `image`: float32 `[n, 1, 8, 8]`\n\nThe numbers are given as they are" in text
    assert "## Field `any`: int64 `[n, …]`" in text


def test_numbers_side_by_side_have_places_and_formulas() -> None:
    person = fitted(
        (NumberColumn(name="age", missing=[-9, "?"]), [20, 40, None]),
        (NumberColumn(name="gain", scale="log", indicator=False), [0.0, 100.0]),
        (BooleanColumn(name="member"), [True, False]),
        (CategoricalColumn(name="job", encode="onehot"), ["cook", "cook", "smith", "smith"]),
        (DatetimeColumn(name="since", parts=["elapsed", "year", "month"]), ["2020-01-01", "2022-07-01"]),
        (ListColumn(name="marks", length=2), [[1.0, 2.0], [3.0]]),
    )
    text = note(person=person)
    assert f"## Field `person`: float32 `[n, {person.shape[0]}]`" in text
    assert (
        "- numbers 0 to 1, column `age`: (x - 30) / 10, where a missing x is 30; then 1 where missing, else 0"
        in text
    )
    assert "  (missing, too: `-9`, `'?'`)" in text
    assert re.search(
        r"- number 2, column `gain`: \(sign\(x\)·log\(1 \+ \|x\|\) - 2\.\d+\) / 2\.\d+, where", text
    )
    assert re.search(r"- number.*column `member`: 1 for true, 0 for false, 0\.5 for missing", text)
    assert re.search(
        r"column `job`: a category as 1 in its place .* then for the 2 `values` in their order", text
    )
    assert re.search(
        r"column `since`: \(days since 1970 - .*\(year - 2021\) / 1, sine and cosine of 2π·month / 12", text
    )
    assert "column `marks`: a list's first 2 numbers, padded with 0" in text
    assert f" to {person.shape[0] - 1}, column `marks`" in text


def test_what_the_note_says_of_a_number_is_what_is_done() -> None:
    field = fitted((NumberColumn(name="age"), [18.0, 25.0, 67.0, None]))
    said = re.search(r"\(x - ([\d.]+)\) / ([\d.]+), where a missing x is ([\d.]+); then 1", note(age=field))
    assert said
    center, scale, fill = map(float, said.groups())
    expected = [[(30 - center) / scale, 0], [(fill - center) / scale, 1]]
    assert np.allclose(field.encode({"age": pa.array([30.0, None])}), expected, atol=1e-4)


def test_what_the_note_says_of_indices_is_what_is_done() -> None:
    field = fitted(
        (CategoricalColumn(name="job", encode="index"), ["cook", "cook", "smith", "smith"]),
        (CategoricalColumn(name="town", encode="index", hash_buckets=4), ["a", "b"]),
    )
    text = note(ids=field)
    assert (
        "- index 0, column `job`: a category as an index: 0 for unknown, 1 for missing, then from 2 on"
        in text
    )
    assert (
        "- index 1, column `town`: a category as an index: 4 for unknown, 5 for missing, then from 6 on 4 buckets"
        in text
    )
    encoded = field.encode(
        {"job": pa.array(["new", None, "cook"]), "town": pa.array([None, None, None], pa.string())}
    )
    assert encoded.tolist() == [[0, 5], [1, 5], [2, 5]]


def test_texts_sequences_and_tensors_are_fields_of_their_own() -> None:
    flat = pa.array([[0.0, 2.0], [4.0, 2.0]], pa.list_(pa.float64(), 2))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [1, 2]), flat)
    words = fitted((TextColumn(name="review", max_length=7), ["good", "good", "bad", "bad"]))
    items = fitted((SequenceColumn(name="basket", max_length=3), [["a", "a"], ["b", "b"]]))
    image = fitted((TensorColumn(name="image", scale="standard"), tensors))
    text = note(words=words, items=items, image=image)
    assert (
        "- the whole field, column `review`: the first 7 words of a text in Unicode's form NFC, lowercased"
        in text
    )
    assert "the 2 `words` in their order, padded with 0" in text
    assert (
        "column `basket`: a list's first 3 items: 1 for unknown or missing, then from 2 on the 2 `values`"
        in text
    )
    assert re.search(
        r"column `image`: \(x - 2\) / 1\.41421 of every number, 0 where the tensor is missing", text
    )
    info = SentenceEncoderInfo(dim=4, sha256="ab")
    vectors = fitted((TextColumn(name="review", encoder="mini"), ["good"]), encoders={"mini": info})
    assert "a text's vector of 4 numbers by the sentence encoder 'mini' (SHA-256 of its files: ab)" in note(
        v=vectors
    )
