"""A JSON body → what is asked, and of which rows.

Numbers go from the text straight into arrays. What is not plainly right is read a second time, with all care: that
tells what is wrong with it, and where.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qs

import numpy as np
import orjson
import simdjson
from pydantic import ValidationError

from app.predictions.batching import Fields
from app.predictions.loaded import LoadedVersion, Route
from app.predictions.question import DEFAULT_RETURNS, Question
from app.predictions.rows import JsonInputs, ParsedInputs, RawRows, Rows
from app.predictions.schemas import PredictIn, PredictManyIn
from app.problems import Invalid, MalformedBody, problem_of_validation

_KEPT_BYTES = 2**20
"""A parser keeps as much memory as its largest body took: one that has read a larger one is let go."""

_KEPT_PARSERS = 8

_FORMS = ("inputs", "records", "columns")
_FRAME = frozenset({"inputs", "version", "return", "tasks"})
_A_ROW: dict[str, Any] = {"inputs": {"x": [0]}}

_parsers: list[simdjson.Parser] = []


class JsonBody(Rows):
    """A JSON body of which it is known what it asks.

    Args:
        content: The body.
        task: The task that its path names; None where the body may name several.

    Attributes:
        question: What is asked.

    Raises:
        MalformedBody: If it is not JSON.
        Invalid: If it is not what the operation takes.
    """

    def __init__(self, content: bytes, task: str | None) -> None:
        self._content, self._task = content, task
        self._parser = _parsers.pop() if _parsers else simdjson.Parser()
        self._parsed: ParsedInputs | None = None
        self._rows: Rows | None = None
        self.question = self._parse() or self._read()

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the rows as a route reads them.

        Raises:
            Invalid: If a field or column is missing, unknown, or not of the form that the version was trained on.
        """
        found = self._parsed.fields(loaded, route) if self._parsed else None
        # No part of a document may be left when its parser reads the next.
        self._parsed = None
        if len(self._content) <= _KEPT_BYTES and len(_parsers) < _KEPT_PARSERS:
            _parsers.append(self._parser)
        if found is not None:
            return found
        if self._rows is None:
            self._read()
        return cast("Rows", self._rows).fields(loaded, route)

    def raw(self, loaded: LoadedVersion, n: int) -> dict[str, Any] | None:
        """Return the first rows as they came, where they are raw."""
        return self._rows.raw(loaded, n) if self._rows is not None else None

    def _parse(self) -> Question | None:
        """Parse a body that holds inputs and is plainly right; None for any other."""
        try:
            document = self._parser.parse(self._content)
        except (ValueError, RuntimeError):
            return None
        if not isinstance(document, simdjson.Object):
            return None
        given = {key: document[key] for key in document}
        inputs = given.get("inputs")
        if (
            len(given) < len(document)
            or not _FRAME.issuperset(given)
            or not isinstance(inputs, simdjson.Object)
        ):
            return None
        fields = {name: inputs[name] for name in inputs}
        if len(fields) < len(inputs) or not all(isinstance(v, simdjson.Array) for v in fields.values()):
            return None
        returns, tasks = given.get("return", DEFAULT_RETURNS), given.get("tasks")
        brackets = _count_of_brackets(self._content)
        if isinstance(returns, simdjson.Array):
            returns, brackets = _listed(returns), brackets - 1
        if isinstance(tasks, simdjson.Array):
            tasks, brackets = _listed(tasks), brackets - 1
        if self._task is not None:
            if "tasks" in given:
                return None
            tasks = (self._task,)
        question = _plain_question(tasks, returns, given.get("version", "default"))
        if question is not None:
            self._parsed = ParsedInputs(cast("dict[str, simdjson.Array]", fields), brackets)
        return question

    def _read(self) -> Question:
        """Read the body with all care."""
        try:
            document: Any = orjson.loads(self._content)
        except orjson.JSONDecodeError as error:
            raise MalformedBody(f"the body is not JSON: {error.msg}") from None
        kind = PredictManyIn if self._task is None else PredictIn
        self._rows = _rows_in(document)
        frame = (
            document if self._rows is None else {k: document[k] for k in document if k not in _FORMS} | _A_ROW
        )
        try:
            body = kind.model_validate(frame)
        except ValidationError as error:
            raise problem_of_validation(error, "body", document) from None
        if self._rows is None:
            self._rows = JsonInputs(body.inputs) if body.inputs else RawRows(body.records, body.columns)
        tasks = (self._task,) if self._task is not None else cast("PredictManyIn", body).tasks
        return Question(None if tasks is None else tuple(tasks), tuple(body.returns), body.version)


@lru_cache(maxsize=1024)
def question_in_query(query: bytes, task: str | None) -> Question:
    """Return the question in a query string: ``version``, ``return`` and ``tasks``, lists with commas or repeated.

    Args:
        query: As it came.
        task: The task that the path names; None where the query may name several.

    Raises:
        Invalid: If it breaks a rule.
    """
    try:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
    except ValueError as error:
        raise Invalid(f"the query string cannot be read: {error}") from None
    said: dict[str, Any] = {
        name: [part for value in given[name] for part in value.split(",")]
        for name in ("return", "tasks")
        if name in given
    }
    if "version" in given:
        said["version"] = given["version"][-1]
    try:
        if task is not None:
            read = PredictIn.model_validate(said | _A_ROW)
            return Question((task,), tuple(read.returns), read.version)
        read = PredictManyIn.model_validate(said | _A_ROW)
    except ValidationError as error:
        raise problem_of_validation(error, "query", said) from None
    return Question(None if read.tasks is None else tuple(read.tasks), tuple(read.returns), read.version)


def _rows_in(document: Any) -> Rows | None:
    """Return the rows of a document, whose values are not looked at; None where they do not have the form of rows."""
    if not isinstance(document, dict):
        return None
    body = cast("dict[str, Any]", document)
    forms = [form for form in _FORMS if body.get(form) is not None]
    if len(forms) != 1 or not body[forms[0]]:
        return None
    if forms[0] == "records":
        return RawRows(records=body["records"]) if _all_are(body["records"], list, dict) else None
    values = body[forms[0]]
    if not isinstance(values, dict) or not _all_are(
        list(cast("dict[Any, Any]", values).values()), list, list
    ):
        return None
    named = cast("dict[str, list[Any]]", values)
    return JsonInputs(named) if forms[0] == "inputs" else RawRows(columns=named)


def _all_are(values: Any, kind: type, kind_of_each: type) -> bool:
    """Say whether values are of a kind, and each of them is of another, and not empty."""
    return isinstance(values, kind) and all(
        isinstance(value, kind_of_each) and bool(value) for value in cast("list[Any]", values)
    )


def _count_of_brackets(content: bytes) -> int:
    # Of many bytes, bytes.count takes ten times as long; of few, numpy does.
    if len(content) < 4096:
        return content.count(b"[")
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("[")))


def _listed(values: simdjson.Array) -> tuple[Any, ...]:
    return tuple(cast("list[Any]", values.as_list()))


def _plain_question(tasks: Any, returns: Any, version: Any) -> Question | None:
    """Return a question of what a body says, or None if it is not plainly one."""
    is_plain = type(version) in (int, str) and all(
        type(names) is tuple and all(type(name) is str for name in cast("tuple[Any, ...]", names))
        for names in (returns, () if tasks is None else tasks)
    )
    return _checked(tasks, returns, version) if is_plain else None


@lru_cache(maxsize=1024)
def _checked(tasks: tuple[str, ...] | None, returns: tuple[str, ...], version: int | str) -> Question | None:
    """Return a question, or None if it breaks a rule; most requests ask what others have asked before."""
    try:
        PredictManyIn.model_validate({**_A_ROW, "tasks": tasks, "return": returns, "version": version})
    except ValidationError:
        return None
    return Question(tasks, returns, version)
