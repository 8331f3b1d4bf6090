"""Every row of docs/options.md says JSON that the API takes, and what it selects is tried by a test."""

from __future__ import annotations

import runpy
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from app.runs.schemas import ModuleSource, ScoreIn, TrainIn, VerdictSettings
from mtl_core.specs import FieldSpec, OperationSpec, Predicate, SliceSpec, TaskSpec
from tests.docs.pages import ROOT

_GROUPS = {
    title: options
    for title, _, options in runpy.run_path(str(ROOT / "docs" / "generate.py"))["option_groups"]()
}
_LINEAR = {"type": "Linear", "in_features": 4, "out_features": 2}
_PREDICATES: TypeAdapter[Any] = TypeAdapter(Predicate)

# What else an object must say for one member of it to make sense.
_SHAPES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "Task": (
        TaskSpec,
        {
            "name": "t",
            "module_pool": {"head": _LINEAR},
            "op_sequence": [{"module_name": "head", "inputs": [["_input_", "x"]]}],
        },
    ),
    "Operation": (OperationSpec, {"module_name": "head", "inputs": [["_input_", "x"]]}),
    "Field": (FieldSpec, {"shape": [1]}),
    "Slice": (SliceSpec, {"name": "s", "where": {"mask": "m"}}),
    "Run": (TrainIn, {"datasets": ["d"]}),
    "Scoring": (ScoreIn, {"datasets": ["d"]}),
    "Module source": (ModuleSource, {}),
    "Verdict": (VerdictSettings, {}),
    "Trainer": (TrainIn, {"datasets": ["d"]}),
}
_COMPARISON = {"field": "f", "op": "==", "value": 1}


def _rows(*titles: str) -> Any:
    rows = [
        pytest.param(title, option, id=f"{title}-{option.path}")
        for title in titles
        for option in _GROUPS[title]
    ]
    return pytest.mark.parametrize(("title", "option"), rows)


@_rows(*_SHAPES)
def test_the_json_of_a_row_is_taken_as_it_is(title: str, option: Any) -> None:
    shape, rest = _SHAPES[title]
    taken = shape.model_validate(rest | option.json).model_dump(mode="json", exclude_unset=True)
    assert _at(taken, option.path) == _at(option.json, option.path)


@_rows("Predicate")
def test_the_json_of_a_predicate_is_taken_as_it_is(title: str, option: Any) -> None:
    is_whole = option.path in ("and", "or", "not", "mask")
    taken = _PREDICATES.validate_python(option.json if is_whole else _COMPARISON | option.json)
    assert (
        _PREDICATES.dump_python(taken, mode="json", exclude_unset=True)[option.path]
        == option.json[option.path]
    )


@_rows(*_SHAPES)
def test_a_default_is_what_one_gets_without_saying_anything(title: str, option: Any) -> None:
    shape, rest = _SHAPES[title]
    if option.default and option.path not in rest:
        value = _at(shape.model_validate(rest).model_dump(mode="json"), option.path)
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        assert option.default == ("none" if value is None else f"`{shown}`")


def _at(body: Any, path: str) -> Any:
    for member in path.split("."):
        body = body[member]
    return body
