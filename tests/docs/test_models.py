"""The page on models in a short form: its JSON works, and it shows every architecture with its defaults."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic import TypeAdapter

from app.models.schemas import ModelIn
from mtl_core.architectures import Architecture, TaskOutline, expand
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, check_task
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "models.md"
_READ: TypeAdapter[Architecture] = TypeAdapter(Architecture)
_TYPES = {get_args(of.model_fields["type"].annotation)[0]: of for of in get_args(get_args(Architecture)[0])}
_FIELDS = {
    "person": FieldShape([12], "float32"),
    "text": FieldShape([9], "int64", vocabulary=50),
}


def shown() -> list[dict[str, Any]]:
    return [json.loads(block.text) for block in blocks(PAGE.read_text()) if block.language == "json"]


def test_the_model_shown_can_be_made() -> None:
    model = ModelIn.model_validate(shown()[0])
    assert model.architecture
    for spec in expand(model.architecture, [task for task in model.tasks if isinstance(task, TaskOutline)]):
        check_task(spec, Limits(), _FIELDS)


def test_every_architecture_is_shown_and_can_be_built() -> None:
    architectures = [_READ.validate_python(block) for block in shown()[1:]]
    assert [architecture.type for architecture in architectures] == list(_listed())
    assert set(_listed()) == set(_TYPES)
    tasks = [TaskOutline(name=name, kind="binary") for name in ("income", "never_married")]
    for architecture in architectures:
        for spec in expand(architecture, tasks):
            assert check_task(spec, Limits(), _FIELDS).output_shape == [1]


def test_options_have_the_defaults_that_are_listed() -> None:
    for kind, options in _listed().items():
        of = _TYPES[kind]
        own = [
            name for name in of.model_fields if name in of.__annotations__ and name not in ("type", "inputs")
        ]
        assert options == {name: of.model_fields[name].default for name in own}, kind


def _listed() -> dict[str, dict[str, Any]]:
    """Return the options of each type with their defaults, as the page's table has them."""
    rows = re.findall(r"^\| `(\w+)` \| (`\w+` `.+`) \|$", PAGE.read_text(), flags=re.MULTILINE)
    return {
        kind: {name: json.loads(value) for name, value in re.findall(r"`(\w+)` `([^`]+)`", options)}
        for kind, options in rows
    }
