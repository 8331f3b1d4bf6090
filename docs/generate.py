"""Writes the pages of docs/ that are made from the code: ``python docs/generate.py``.

``docs/settings.md`` comes from ``app/settings.py``, ``docs/catalogue.md`` from the catalogues of ``mtl_core``,
``docs/options.md`` from the shapes of tasks and runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.catalogue import column_types
from app.runs.schemas import ModuleSource, ScoreIn, TrainIn, VerdictSettings
from app.settings import Settings
from mtl_core.kinds import KINDS
from mtl_core.losses import LOSSES
from mtl_core.modules import MODULES
from mtl_core.outputs import OUTPUTS
from mtl_core.preprocessing import LabelSpec
from mtl_core.scoring.metrics import METRICS
from mtl_core.specs import (
    AllOf,
    AnyOf,
    Comparison,
    FieldSpec,
    MaskField,
    Negation,
    OperationSpec,
    SliceSpec,
    TaskSpec,
)
from mtl_core.training.balancing import BALANCERS

DOCS = Path(__file__).parent
_MARK = "<!-- Written by `python docs/generate.py` from the code; a test fails while it is out of date. -->"
# Bounds that only say what a number can be at all tell a reader nothing.
_NO_BOUND = 1e9

_SETTINGS_HEAD = """
# Settings

Every setting is an environment variable, read once when a process starts; `serve` and `worker` have options for the
commonest, which go first. The server and all of its workers take the same `TASKLOOM_DATA_DIR` and
`TASKLOOM_DATABASE_URL`.
"""

_CATALOGUE_HEAD = """
# Catalogue

What task specs and datasets may be made of. The same, as JSON Schema, is at `GET /v1/modules`; the members of a task
and of a run are in [options](options.md).

A module is `{"type": T, …arguments}`. A kind, loss, output function, metric or way of balancing is its name, or
`{"type": name, …arguments}` where it takes arguments. An argument without a default must be given. Batches come first
everywhere: recurrent and attention layers are always `batch_first`, and no module works along dimension 0.
"""

_OPTIONS_HEAD = """
# Options

Every member of a task and of a run, with its default, what values it takes and the JSON that selects one. `mtl_core`
takes the same: a `trainer` object's members are the arguments of `Trainer`.
"""


def pages() -> dict[str, str]:
    """Return the text of each generated page by its file name."""
    return {"settings.md": settings_page(), "catalogue.md": catalogue_page(), "options.md": options_page()}


def settings_page() -> str:
    """Return the page of the ``TASKLOOM_*`` variables."""
    fields = Settings.model_json_schema()["properties"]
    rows = [
        (f"`TASKLOOM_{name.upper()}`", _default(field), _kind(field), field["description"])
        for name, field in fields.items()
    ]
    return _page(_SETTINGS_HEAD, _table(("Variable", "Default", "Value", "Meaning"), rows))


def catalogue_page() -> str:
    """Return the page of all that specs, datasets and trainings may name."""
    sections: list[str] = []
    for title, catalogue in (
        ("Modules", MODULES),
        ("Kinds of task", KINDS),
        ("Losses", LOSSES),
        ("Output functions", OUTPUTS),
        ("Metrics", METRICS),
        ("Balancing", BALANCERS),
    ):
        rows = [
            (f"`{entry['type']}`", entry["summary"], _arguments(entry["arguments"]))
            for entry in catalogue.describe()
        ]
        sections += [f"## {title}", _table(("Type", "What it does", "Arguments"), rows)]
    columns = [(f"`{c['type']}`", c["summary"], _arguments(c["arguments"])) for c in column_types()]
    labels = [
        (f"`{name}`", _default(field), _kind(field), field.get("description", ""))
        for name, field in LabelSpec.model_json_schema()["properties"].items()
    ]
    sections += [
        "## Columns",
        "What the columns of a dataset's fields may be; see [datasets](datasets.md).",
        _table(("Type", "What it is", "Options"), columns),
        "## Labels",
        _table(("Member", "Default", "Value", "Meaning"), labels),
    ]
    return _page(_CATALOGUE_HEAD, *sections)


def options_page() -> str:
    """Return the page of all that a task and a run may be told."""
    head = ("Option", "Default", "Value", "JSON", "Meaning")
    sections: list[str] = []
    for title, note, options in option_groups():
        rows = [
            (f"`{option.path}`", option.default, option.kind, f"`{json.dumps(option.json)}`", option.meaning)
            for option in options
        ]
        sections += [f"## {title}", note, _table(head, rows)]
    return _page(_OPTIONS_HEAD, *sections)


@dataclass(frozen=True)
class Option:
    """One member of an object of the API: a dotted path, what the schema says of it, and JSON that selects it."""

    path: str
    default: str
    kind: str
    json: dict[str, Any]
    meaning: str


def option_groups() -> list[tuple[str, str, list[Option]]]:
    """Return titles, notes and options of everything that a task or a run is told by."""
    run = list(_options(TrainIn))
    trainer = [option for option in run if option.path.startswith("trainer.")]
    predicates = [
        option for form in (Comparison, MaskField, AllOf, AnyOf, Negation) for option in _options(form)
    ]
    return [
        ("Task", "The body of `POST /v1/tasks`.", list(_options(TaskSpec))),
        ("Operation", "An entry of a task's `op_sequence`.", list(_options(OperationSpec))),
        ("Field", "An entry of a task's `inputs`.", list(_options(FieldSpec))),
        ("Slice", "An entry of a task's `slices`.", list(_options(SliceSpec))),
        ("Predicate", "A slice's `where`: one of these forms.", predicates),
        (
            "Run",
            "The body of `POST /v1/models/{model}/runs`.",
            [option for option in run if option not in trainer],
        ),
        (
            "Scoring",
            "The body of `POST /v1/models/{model}/versions/{version}/scores`.",
            list(_options(ScoreIn)),
        ),
        ("Module source", "An entry of a run's `init_modules`.", list(_options(ModuleSource))),
        ("Verdict", "A run's `verdict`.", list(_options(VerdictSettings))),
        ("Trainer", "Within a run's `trainer`; a dot leads into a nested object.", trainer),
    ]


def _options(model: type[BaseModel]) -> Iterator[Option]:
    schema = model.model_json_schema()
    # A shape that refers to itself stands among the definitions.
    definitions = schema.get("$defs", {})
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]

    def walk(properties: dict[str, Any], path: tuple[str, ...]) -> Iterator[Option]:
        for name, field in properties.items():
            here = (*path, name)
            inner = definitions.get(field.get("$ref", "").rpartition("/")[2], {}).get("properties")
            if inner and "examples" not in field:
                yield from walk(inner, here)
                continue
            example: Any = _example(".".join(here), field)
            for member in reversed(here):
                example = {member: example}
            meaning = field.get("description", "")
            # Of objects the settings' page has nothing but their description to say.
            kind = "object" if _kind(field) == meaning else _kind(field)
            yield Option(".".join(here), _default(field), kind, example, meaning)

    return walk(schema["properties"], ())


def _example(path: str, field: dict[str, Any]) -> Any:
    """Return a value that selects the option: the first of its examples, else its default."""
    if "examples" in field:
        return field["examples"][0]
    if field.get("default") in (None, [], {}):
        raise ValueError(f"option {path} has neither a default that says something nor an example")
    return field["default"]


def _page(*parts: str) -> str:
    return "\n\n".join([_MARK, *(part.strip() for part in parts)]) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", r"\|").replace("\n", " ")


def _arguments(schema: dict[str, Any]) -> str:
    return "<br>".join(
        f"`{name}`: {_kind(field)}{f' = {_default(field)}' if _is_open(field) else ''}"
        for name, field in schema["properties"].items()
    )


def _is_open(field: dict[str, Any]) -> bool:
    return "default" in field and "const" not in field


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(field: dict[str, Any]) -> str:
    """Say in a few words what values a JSON Schema admits."""
    match field:
        case {"anyOf": members} | {"oneOf": members}:
            kind = " or ".join(dict.fromkeys(map(_kind, members)))
        case {"const": value}:
            kind = f"always `{str(value).lower()}`"
        case {"enum": values}:
            kind = ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "prefixItems": items}:
            kind = f"[{', '.join(map(_kind, items))}]"
        case {"type": "array", "items": item}:
            inner = _kind(item)
            kind = f"list of {f'({inner})' if ' or ' in inner else inner}"
        case {"type": "integer" | "number" as name}:
            kind = f"{name} {_range(field)}".strip()
        case {"$ref": reference}:
            kind = f"`{reference.rpartition('/')[2]}`"
        case {"type": "object"}:
            kind = field.get("description", "object")
        case {"type": "string"}:
            kind = field.get("format", "text")
        case {"type": "boolean"}:
            kind = "true or false"
        case _:
            kind = field["type"]
    return kind


def _range(field: dict[str, Any]) -> str:
    bounds = {
        sign: field[name]
        for sign, name in (
            ("≥", "minimum"),
            (">", "exclusiveMinimum"),
            ("≤", "maximum"),
            ("<", "exclusiveMaximum"),
        )
        if name in field and abs(field[name]) <= _NO_BOUND
    }
    if list(bounds) == ["≥", "≤"]:
        return f"{bounds['≥']:g} to {bounds['≤']:g}"
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds.items())


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text)
        print(f"wrote {DOCS.name}/{name}")


if __name__ == "__main__":
    main()
