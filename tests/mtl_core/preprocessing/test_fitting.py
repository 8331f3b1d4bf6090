"""What each type of column becomes, by example."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_core.errors import TaskloomError
from mtl_core.preprocessing import (
    BooleanColumn,
    CategoricalColumn,
    ColumnError,
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
from tests.mtl_core.preprocessing.columns import encode, fit, summarise

RNG = np.random.default_rng(0)
AGES = [1.0, 2.0, 3.0, 4.0, 10.0, None]  # mean 4, deviation √10, median 3, quartiles 2 and 4


@pytest.mark.parametrize(
    ("scale", "of_10"),
    [
        ("none", 10.0),
        ("standard", 6 / math.sqrt(10)),
        ("robust", (10 - 3) / 2),
        ("minmax", 1.0),
    ],
)
def test_numbers_are_scaled(scale: Any, of_10: float) -> None:
    spec = NumberColumn(name="age", scale=scale)
    assert encode(spec, AGES, [10])[0] == pytest.approx([of_10, 0.0])


def test_log_scales_by_the_moments_of_the_logarithms() -> None:
    spec = NumberColumn(name="gain", scale="log")
    train = [math.expm1(1), math.expm1(3), -math.expm1(5)]  # logged: 1, 3, -5
    deviation = math.sqrt((16 / 9 * 0) + ((1 + 1 / 3) ** 2 + (3 + 1 / 3) ** 2 + (-5 + 1 / 3) ** 2) / 3)
    assert encode(spec, train, [0.0])[0] == pytest.approx([(1 / 3) / deviation])


@pytest.mark.parametrize(("impute", "value"), [("mean", 4.0), ("median", 3.0), ("zero", 0.0), (-7.5, -7.5)])
def test_missing_numbers_are_imputed_and_told(impute: Any, value: float) -> None:
    spec = NumberColumn(name="age", scale="none", impute=impute)
    missing = pa.array([None, math.nan, math.inf, -math.inf])
    assert encode(spec, AGES, missing) == [[value, 1.0]] * 4


def test_an_indicator_stands_where_the_training_data_misses_values_unless_said_otherwise() -> None:
    assert encode(NumberColumn(name="x", scale="none"), [1.0, 3.0], pa.array([None, 3.0])) == [[2.0], [3.0]]
    assert encode(NumberColumn(name="x", scale="none", indicator=True), [1.0], [1.0]) == [[1.0, 0.0]]
    assert encode(NumberColumn(name="x", scale="none", indicator=False), [1.0, None], [1.0]) == [[1.0]]


def test_numbers_may_be_text_and_further_values_missing() -> None:
    spec = NumberColumn(name="x", scale="none", impute="zero", missing=["?", -999])
    train = [" 1.5", "?", "", "-999.0", "2e3"]
    assert encode(spec, train, train) == [[1.5, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [2000.0, 0.0]]
    assert encode(spec, train, [-999, 7]) == [[0.0, 1.0], [7.0, 0.0]]


@pytest.mark.parametrize("scale", ["none", "standard", "robust", "minmax", "log"])
@pytest.mark.parametrize("train", [[], [None], [5.0, 5.0], [1e308, -1e308], [5e-324, 0.0]])
def test_no_training_data_divides_by_zero(scale: Any, train: list[Any]) -> None:
    field = fit(NumberColumn(name="x", scale=scale), pa.array(train, pa.float64()))
    values = pa.array([1e308, -1e308, 0.0, None, 5.0])
    assert np.isfinite(field.encode({"x": values})).all()


def test_booleans_come_in_many_words() -> None:
    spec = BooleanColumn(name="b")
    assert encode(spec, [True, None], [True, False, None]) == [[1.0, 0.0], [0.0, 0.0], [0.5, 1.0]]
    assert encode(spec, [True], ["yes", "No", " T ", "false", "1", "0", ""]) == [
        [v] for v in (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5)
    ]
    assert encode(spec, [True], [1.0, 0.0]) == [[1.0], [0.0]]


def test_onehot_has_places_for_unknown_and_missing_then_values_by_frequency() -> None:
    spec = CategoricalColumn(name="c")
    train = ["b", "b", "a", "c", "a", "b"]
    assert (
        encode(spec, train, ["b", "a", "c", "d", None, " b", ""]) == np.eye(5)[[2, 3, 4, 0, 1, 2, 1]].tolist()
    )
    assert fit(spec, pa.array(train)).feature_names == ["c is unknown", "c is missing", "c=b", "c=a", "c=c"]


def test_a_vocabulary_is_cut_by_count_and_size_and_ties_go_by_name() -> None:
    train = [*"aaabbbccd"]
    assert _vocabulary(CategoricalColumn(name="c", min_count=2), train) == ["a", "b", "c"]
    assert _vocabulary(CategoricalColumn(name="c", max_size=1), train) == ["a"]
    assert _vocabulary(CategoricalColumn(name="c"), [*"dcba"]) == ["a", "b", "c", "d"]
    assert len(_vocabulary(CategoricalColumn(name="c"), range(400))) == 256
    assert len(_vocabulary(CategoricalColumn(name="c", encode="index"), range(400))) == 400


def _vocabulary(spec: CategoricalColumn, train: Any) -> list[str]:
    column = fit(spec, pa.array(list(train))).columns[0]
    assert column.type in ("onehot", "index")
    return column.values


def test_a_category_is_the_same_as_text_integer_and_float() -> None:
    spec = CategoricalColumn(name="c", encode="index")
    train = ["6", "true", "2020-01-31", "0.1", "0.1", "0.1"]
    index = {text: encode(spec, train, [text])[0] for text in train}
    for column in ([6], [6.0], [" 6 "], pa.array([6.0], pa.float32()), pa.array(["6"]).dictionary_encode()):
        assert encode(spec, train, column) == [index["6"]]
    assert encode(spec, train, [True]) == [index["true"]]
    assert encode(spec, train, [date(2020, 1, 31)]) == [index["2020-01-31"]]
    assert encode(spec, train, [0.1]) == encode(spec, train, pa.array([0.1], pa.float32())) == [index["0.1"]]
    assert encode(spec, train, [math.nan]) == [[1]]


def test_indices_of_several_columns_are_one_vocabulary() -> None:
    specs = [CategoricalColumn(name=name, encode="index") for name in ("c", "d")]
    train = {"c": pa.array(["x", "y"]), "d": pa.array(["y", "z"])}
    field = fit_field(FieldPlan(columns=specs), {s.name: summarise(s, train[s.name]) for s in specs})
    assert (field.shape, field.dtype, field.vocabulary) == ([2], "int64", 8)
    raw = {"c": pa.array(["x", "?", None]), "d": pa.array(["z", "y", "?"])}
    assert field.encode(raw).tolist() == [[2, 7], [0, 6], [1, 4]]


def test_hashes_take_the_place_of_a_vocabulary() -> None:
    spec = CategoricalColumn(name="c", encode="index", hash_buckets=5)
    values = [f"value {i}" for i in range(200)]
    codes = [code for [code] in encode(spec, [], values)]
    assert set(codes) == {2, 3, 4, 5, 6}
    assert encode(spec, values, values) == [[code] for code in codes]  # the training data plays no part
    assert encode(spec, [], [None, "value 0"]) == [[1], [codes[0]]]
    assert encode(spec, [], [7]) == encode(spec, [], ["7 "])
    assert fit(spec, pa.array([], pa.string())).vocabulary == 7
    onehot = CategoricalColumn(name="c", hash_buckets=5)
    assert encode(onehot, [], values) == np.eye(7)[codes].tolist()
    # What is stored with a version must mean the same ever after.
    assert encode(CategoricalColumn(name="c", encode="index", hash_buckets=2**24), [], ["Bachelors"]) == [
        [14876746]
    ]


def test_dates_become_elapsed_days_and_places_on_circles() -> None:
    spec = DatetimeColumn(name="t")
    train = pa.array(["2020-01-01", "2020-01-03"])  # Wednesday, Friday
    field = fit(spec, train)
    assert field.feature_names == [
        "t elapsed",
        "t month sin",
        "t month cos",
        "t weekday sin",
        "t weekday cos",
    ]
    weekday = 2 * math.pi * 2 / 7
    assert field.encode({"t": train})[0].tolist() == pytest.approx(
        [-1, 0, 1, math.sin(weekday), math.cos(weekday)]
    )
    assert field.encode({"t": pa.array(["2020-01-04"])})[0, 0] == 2.0


def test_every_part_of_a_date() -> None:
    parts: list[Any] = ["year", "month", "day", "weekday", "hour", "minute"]
    spec = DatetimeColumn(name="t", parts=parts)
    train = pa.array(["1999-06-15T12:00", "2001-06-15T12:00"])
    [encoded] = encode(spec, train, ["1969-12-31T23:45:10.5Z"])
    circles = [(11, 12), (30, 31), (2, 7), (23, 24), (45, 60)]
    expected = [f(2 * math.pi * step / period) for step, period in circles for f in (math.sin, math.cos)]
    assert encoded == pytest.approx([-31.0, *expected], abs=1e-6)


def test_a_time_of_day_brings_hour_and_minute_and_a_missing_moment_is_average() -> None:
    field = fit(DatetimeColumn(name="t"), pa.array(["2020-01-01T06:30", None]))
    assert field.feature_names[5:] == [
        "t hour sin",
        "t hour cos",
        "t minute sin",
        "t minute cos",
        "t is missing",
    ]
    assert field.encode({"t": pa.array([None, ""])}).tolist() == [[0.0] * 9 + [1.0]] * 2


@pytest.mark.parametrize(
    "moment",
    [
        pa.array(["2020-05-17T10:00:00Z"]),
        pa.array(["2020-05-17 12:00:00+02:00"]),
        pa.array(["2020-05-17T05:30:00.000000000-0430"]),
        pa.array(["2020-05-17T10:00"]),
        pa.array([1589709600], pa.timestamp("s")),
        pa.array([1589709600 * 10**9 + 1], pa.timestamp("ns", "Europe/Berlin")),
    ],
)
def test_a_moment_is_one_however_it_is_written(moment: pa.Array) -> None:
    spec = DatetimeColumn(name="t", parts=["elapsed", "hour"])
    train = pa.array(["2020-05-16", "2020-05-17T20:00"])
    assert encode(spec, train, moment) == encode(spec, train, ["2020-05-17T10:00:00"])


def test_texts_become_indices_of_words() -> None:
    spec = TextColumn(name="t", max_length=4)
    train = ["The cat, the hat", "a cat"]
    field = fit(spec, pa.array(train))
    assert (field.shape, field.dtype, field.vocabulary) == ([4], "int64", 4)
    texts = pa.array(["THE cat sat", None, "the the the the cat", "", "CAT"])
    assert field.encode({"t": texts}).tolist() == [
        [3, 2, 1, 0],
        [0, 0, 0, 0],
        [3, 3, 3, 3],
        [0, 0, 0, 0],
        [2, 0, 0, 0],
    ]
    assert encode(TextColumn(name="t", lowercase=False, max_length=1, min_count=1), ["a"], ["A"]) == [[1]]
    assert encode(TextColumn(name="t", max_length=1, min_count=1, max_size=1), ["b a a"], ["b"]) == [[1]]


def test_texts_may_go_through_a_sentence_encoder() -> None:
    spec = TextColumn(name="t", encoder="lengths")
    info = SentenceEncoderInfo(dim=2, sha256="0" * 64)
    plan, found = FieldPlan(columns=[spec]), {"t": summarise(spec, pa.array(["a"]))}
    field = fit_field(plan, found, {"lengths": info})
    assert (field.shape, field.dtype, field.vocabulary) == ([2], "float32", None)
    raw = {"t": pa.array(["ab", None, "abc"])}
    encoders = {"lengths": lambda texts: np.array([[len(text), 1] for text in texts], dtype=np.float32)}
    assert field.encode(raw, encoders).tolist() == [[2, 1], [0, 0], [3, 1]]
    with pytest.raises(ColumnError, match="column 't': there is no sentence encoder 'lengths'"):
        field.encode(raw)
    with pytest.raises(ColumnError, match="there is no sentence encoder"):
        fit_field(plan, found)
    with pytest.raises(ColumnError, match="gave no 2 numbers for each text"):
        field.encode(raw, {"lengths": lambda texts: np.zeros((len(texts), 3), np.float32)})


def test_lists_are_cut_and_padded() -> None:
    train = [[1.0, 2.0], [3.0, None, 5.0], None, []]
    assert encode(ListColumn(name="l"), train, train) == [[1, 2, 0], [3, 0, 5], [0, 0, 0], [0, 0, 0]]
    assert encode(ListColumn(name="l", length=1), train, [[7, 8]]) == [[7]]
    assert fit(ListColumn(name="l"), pa.array(train)).feature_names == ["l[0]", "l[1]", "l[2]"]
    assert fit(ListColumn(name="l"), pa.array([[0.0] * 5000])).shape == [4096]


def test_sequences_become_indices_of_items() -> None:
    spec = SequenceColumn(name="s", max_length=3)
    train = [["a", "b", "a"], ["c"]]
    values = [["a", None, "?"], ["c", "b", "a", "a"], None, []]
    assert encode(spec, train, values) == [[2, 1, 1], [4, 3, 2], [0, 0, 0], [0, 0, 0]]
    assert fit(spec, pa.array(train)).vocabulary == 5
    assert encode(spec, [[1, 1, 2]], [["2", "1"]]) == [[3, 2, 0]]


def test_tensors_keep_their_shape_and_integers_stay_unless_scaled() -> None:
    images = _tensors(np.array([[[0, 255]], [[51, 102]]], dtype=np.uint8))
    field = fit(TensorColumn(name="x"), images)
    assert (field.shape, field.dtype, field.vocabulary) == ([1, 2], "int64", None)
    assert field.encode({"x": images}).tolist() == [[[0, 255]], [[51, 102]]]
    scaled = fit(TensorColumn(name="x", scale="minmax"), images).encode({"x": images})
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[[0.0, 1.0]], [[pytest.approx(0.2), pytest.approx(0.4)]]]
    standard = fit(TensorColumn(name="x", scale="standard"), images).encode({"x": images})
    assert (standard.mean(), standard.std()) == pytest.approx((0, 1), abs=1e-6)
    assert fit(TensorColumn(name="x"), pa.array([1.5, 2.5])).shape == []


def test_missing_tensors_and_numbers_in_them_are_zero() -> None:
    storage = pa.array([[1.0, math.nan], None, [math.inf, -9.0]], pa.list_(pa.float64(), 2))
    array = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [2]), storage)
    assert encode(TensorColumn(name="x", missing=[-9]), array, array) == [[1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("scale", ["none", "standard", "minmax"])
@pytest.mark.parametrize("train", [[1e308, -1e308], [3e38, -3e38], [1e-300, 2e-300], [0.0, 0.0]])
def test_tensors_of_any_size_stay_finite(scale: Any, train: list[float]) -> None:
    field = fit(TensorColumn(name="x", scale=scale), _tensors(np.array([train])))
    encoded = field.encode({"x": _tensors(np.array([train, train[::-1], [1e308, -1e308]]))})
    assert encoded.dtype == np.float32
    assert np.isfinite(encoded).all()


def test_many_tensors_are_scaled_alike() -> None:
    images = _tensors(RNG.integers(0, 256, (300, 64, 64), dtype=np.uint8))
    field = fit(TensorColumn(name="x", scale="standard"), images)
    encoded = field.encode({"x": images})
    assert encoded[299:].tobytes() == field.encode({"x": images[299:]}).tobytes()
    assert (float(encoded.mean()), float(encoded.std())) == pytest.approx((0, 1), abs=1e-4)


def _tensors(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))


@pytest.mark.parametrize(
    ("spec", "value", "detail"),
    [
        (NumberColumn(name="x"), "abc", "row 2: 'abc' is no number"),
        (NumberColumn(name="x"), "0x10", "row 2: '0x10' is no number"),
        (BooleanColumn(name="x"), "maybe", "row 2: 'maybe' is neither true nor false"),
        (DatetimeColumn(name="x"), "31.12.2020", r"row 2: '31.12.2020' is no date or time \(like 2024-05-31"),
        (DatetimeColumn(name="x"), "2020-02-30", "row 2: '2020-02-30' is no date"),
    ],
)
def test_an_error_names_column_and_row(spec: ColumnSpec, value: str, detail: str) -> None:
    good = {"number": "1", "boolean": "yes", "datetime": "2020-01-01T00:00:00Z"}[spec.type]
    field = fit(spec, pa.array([good]))
    array = pa.chunked_array([[good], [None, value, good]])
    with pytest.raises(ColumnError, match=f"^column 'x', {detail}") as caught:
        field.encode({"x": array})
    assert (caught.value.column, caught.value.row) == ("x", 2)
    with pytest.raises(ColumnError, match="row 1002"):
        Summariser(spec).add(array, 1000)


@pytest.mark.parametrize(
    ("spec", "array", "detail"),
    [
        (NumberColumn(name="x"), pa.array([True]), "values of type bool are no number"),
        (NumberColumn(name="x"), pa.array([[1.0]]), "values of type list are no number"),
        (CategoricalColumn(name="x"), pa.array([{"a": 1}]), "values of type struct are no category"),
        (DatetimeColumn(name="x"), pa.array([2020]), "values of type int64 are no date or time"),
        (ListColumn(name="x"), pa.array([1.0]), "values of type double are no lists"),
        (SequenceColumn(name="x"), pa.array(["a"]), "values of type string are no lists"),
        (SequenceColumn(name="x"), pa.array([[["a"]]]), "values of type list are no category"),
        (
            ListColumn(name="x"),
            pa.array([["1"], ["2", "x"]]),
            "row 1: 'x'",
        ),
        (TensorColumn(name="x"), pa.array([[1.0], [1.0, 2.0]]), "row 1: 2 numbers, but 1 in the rows before"),
        (TensorColumn(name="x"), pa.array(["a"]), "no tensors of numbers"),
        (TensorColumn(name="x"), pa.array([None, None]), "its shape is not known"),
        (TextColumn(name="x"), pa.array([b"\xff"]), "values of type binary are no category"),
        (TextColumn(name="x"), pa.array([b"\xff"]).cast(pa.string(), safe=False), "a value is not UTF-8"),
        (NumberColumn(name="x"), pa.array([b"\xff"]).cast(pa.string(), safe=False), "a value is not UTF-8"),
        (
            CategoricalColumn(name="x"),
            pa.array([b"\xff"]).cast(pa.string(), safe=False),
            "a value is not UTF-8",
        ),
        (DatetimeColumn(name="x"), pa.array([2**62], pa.timestamp("s")), "out of range"),
    ],
)
def test_values_of_another_type_are_refused(spec: ColumnSpec, array: pa.Array, detail: str) -> None:
    with pytest.raises(ColumnError, match=detail):
        fit(spec, array)


def test_tensors_of_another_shape_are_refused() -> None:
    field = fit(TensorColumn(name="x"), _tensors(np.zeros((2, 3))))
    with pytest.raises(ColumnError, match=r"column 'x', row 1: shape \[2\] where \[3\] is due"):
        field.encode({"x": pa.array([None, [1.0, 2.0]])})
    integers = fit(TensorColumn(name="x"), _tensors(np.zeros((2, 3), dtype=np.int64)))
    with pytest.raises(ColumnError, match="row 0: numbers with a fraction"):
        integers.encode({"x": _tensors(np.full((1, 3), 0.5))})


def test_columns_must_be_there_and_equally_long() -> None:
    specs = [NumberColumn(name="a"), NumberColumn(name="b")]
    found = {spec.name: summarise(spec, pa.array([1.0, 2.0])) for spec in specs}
    field = fit_field(FieldPlan(columns=specs), found)
    with pytest.raises(ColumnError, match="column 'b': is not there"):
        field.encode({"a": pa.array([1.0])})
    with pytest.raises(ColumnError, match="column 'b': 2 rows, but 1 in column 'a'"):
        field.encode({"a": pa.array([1.0]), "b": pa.array([1.0, 2.0])})
    with pytest.raises(ColumnError, match="column 'b': has no summary"):
        fit_field(FieldPlan(columns=specs), {"a": found["a"]})


def test_an_example_may_not_be_of_any_width() -> None:
    specs = [CategoricalColumn(name=f"c{i}", hash_buckets=65_536) for i in range(20)]
    found = {spec.name: summarise(spec, pa.array(["a"])) for spec in specs}
    with pytest.raises(TaskloomError, match="1,310,760 numbers of an example; at most 1,048,576"):
        fit_field(FieldPlan(columns=specs), found)


def test_a_huge_text_is_neither_kept_nor_read_to_its_end() -> None:
    text = "x" * 10_000_000
    for spec in (CategoricalColumn(name="c"), CategoricalColumn(name="c", encode="index")):
        field = fit(spec, pa.array([text, text + "y"]))
        assert len(field.model_dump_json()) < 3000
        assert (
            len({tuple(row) for row in field.encode({"c": pa.array([text, text + "y", "z"])}).tolist()}) == 3
        )
    words = fit(TextColumn(name="t", min_count=1, max_length=2), pa.array([text, "a " * 10**6]))
    assert words.encode({"t": pa.array([text, "a " * 10**6])}).tolist() == [[1, 0], [2, 2]]


def test_the_plan_stays_with_the_fit() -> None:
    plan = FieldPlan(columns=[NumberColumn(name="x", missing=["?"])])
    field = fit_field(plan, {"x": summarise(plan.columns[0], pa.array([1.0]))})
    assert FittedField.model_validate_json(field.model_dump_json()).plan == plan
