"""However JSON is written, the quick reading and the careful one agree."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.predictions.loaded import LoadedVersion
from app.predictions.question import Question
from app.predictions.reading import JsonBody, question_in_query
from app.predictions.rows import JsonInputs
from app.problems import Invalid, MalformedBody
from mtl_core.errors import TaskloomError
from tests.app.predictions.versions import EMBEDDING, TRUNK, load_version

# The quick reading takes integers of 64 bits without a sign too, where a field holds floating-point numbers.
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9)
)
ROWS = st.one_of(
    st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4),
    st.lists(st.lists(st.one_of(NUMBERS, st.booleans(), st.none(), st.just([])), max_size=4), max_size=4),
    st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=12),
)


@pytest.fixture(scope="module", params=["float32", "int64"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedVersion:
    trunk = TRUNK if request.param == "float32" else EMBEDDING
    return load_version(tmp_path_factory.mktemp("store"), "a", dtype=request.param, trunk=trunk)


def carefully(loaded: LoadedVersion, values: Any) -> Any:
    route = loaded.route(Question(("a",)))
    try:
        return JsonInputs({"x": values}).fields(loaded, route)["x"]
    except (Invalid, TaskloomError) as error:
        return str(error)


@given(rows=ROWS)
@settings(max_examples=300, deadline=None)
def test_numbers_are_read_as_with_all_care(loaded: LoadedVersion, rows: Any) -> None:
    body = json.dumps({"inputs": {"x": rows}}).encode()
    try:
        read = JsonBody(body, "a")
        found: Any = read.fields(loaded, loaded.route(read.question))["x"]
    except Invalid as error:
        found = str(error)
    if not isinstance(rows, list) or not rows:
        assert "/inputs/x" in found
        return
    expected = carefully(loaded, orjson.loads(body)["inputs"]["x"])
    if isinstance(expected, str):
        assert found == expected
    else:
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('{"inputs": {"x": [[1, 2, 3]]}}', Question()),
        ('{"inputs": {"x": [[1, 2, 3]]}, "tasks": ["a"]}', Question(("a",))),
        ('{"inputs": {"x": [[1, 2, 3]]}, "tasks": null, "version": 3}', Question(version=3)),
        (
            '{"version": "best", "return": ["logits"], "records": [{"age": 3}]}',
            Question(None, ("logits",), "best"),
        ),
        ('{"columns": {"age": [3]}, "inputs": null}', Question()),
    ],
)
def test_a_body_says_what_is_asked(text: str, question: Question) -> None:
    assert JsonBody(text.encode(), None).question == question


@pytest.mark.parametrize("text", ["", "{", "[1", '{"inputs": {"x": [[NaN]]}}', "\xff", '{"inputs": 1}}'])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(MalformedBody):
        JsonBody(text.encode("latin-1"), None)


def test_a_task_in_the_path_is_not_named_again() -> None:
    with pytest.raises(Invalid, match="tasks"):
        JsonBody(b'{"inputs": {"x": [[1]]}, "tasks": ["a"]}', "a")


def test_a_query_says_what_is_asked() -> None:
    query = b"return=preds,probs&return=top_k:3&tasks=a&tasks=b&version=7&x=y"
    assert question_in_query(query, None) == Question(("a", "b"), ("preds", "probs", "top_k:3"), "7")
    assert question_in_query(b"", "a") == Question(("a",))


@pytest.mark.parametrize(
    "query", [b"return=", b"return=gradients", b"version=", b"tasks=a", b"\xff=1&return=\xff", b"x=1&" * 1001]
)
def test_a_query_that_breaks_a_rule_is_refused(query: bytes) -> None:
    with pytest.raises(Invalid):
        question_in_query(query, "a")
