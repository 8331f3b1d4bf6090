"""Models, versions and aliases as they travel over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from app.models.serving import Serving
from app.wire import In, Out, shown_as
from mtl_core.architectures import Architecture, TaskOutline
from mtl_core.specs import Name, TaskSpec

_VERSION: dict[str, Any] = {
    "model": "shapes",
    "version": 1,
    "aliases": ["champion", "latest", "default"],
    "run": "run_01KD8Z6Y0000000000000000AB",
    "tasks": ["circle_task"],
    "parameters": 70,
    "bytes": 664,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-01-02T03:04:05Z",
}
_SUMMARY: dict[str, Any] = {
    "name": "shapes",
    "tasks": ["circle_task"],
    "versions": [1],
    "default_version": 1,
    "created_at": "2026-01-02T03:04:05Z",
}
_OUTLINES: list[dict[str, Any]] = [
    {"name": "income", "kind": "binary"},
    {"name": "schooling", "kind": "ordinal", "labels": 5, "head": [16]},
]
_SHORT_FORM: dict[str, Any] = {
    "name": "census",
    "architecture": {"type": "mmoe", "inputs": ["x"], "experts": 8, "expert_layers": [64]},
    "tasks": _OUTLINES,
}
_MODEL = _SUMMARY | {
    "architecture": None,
    "modules": [
        {"name": "base_mlp", "parameters": 60, "used_by": ["circle_task"]},
        {"name": "circle_head_module", "parameters": 10, "used_by": ["circle_task"]},
    ],
    "parameters": 70,
    "graph": {
        "nodes": [
            {
                "id": 0,
                "module": "base_mlp",
                "inputs": [{"field": "circle_data", "node": None, "index": None}],
                "operations": ["circle_task/base_mlp"],
            },
            {
                "id": 1,
                "module": "circle_head_module",
                "inputs": [{"field": None, "node": 0, "index": None}],
                "operations": ["circle_task/circle_head"],
            },
        ],
        "outputs": {"circle_task": 1},
    },
    "aliases": {"champion": 1},
    "serving": {"max_batch_rows": 256, "max_delay_ms": 0, "max_queue": 1024, "pinned": False, "log_share": 0},
}


def _form_of_task(value: object) -> str | None:
    if isinstance(value, str):
        return "registered"
    return "outline" if isinstance(value, Mapping | TaskOutline) else None


class ModelIn(In, json_schema_extra=shown_as({"name": "shapes", "tasks": ["circle_task"]}, _SHORT_FORM)):
    """A model to be made of registered tasks, or of an architecture and outlines of tasks."""

    name: Name
    architecture: Architecture | None = Field(default=None, examples=[_SHORT_FORM["architecture"]])
    """The network in its short form; without it, tasks are registered ones and bring their modules."""
    tasks: Annotated[
        list[
            Annotated[
                Annotated[Name, Tag("registered")] | Annotated[TaskOutline, Tag("outline")],
                Discriminator(
                    _form_of_task,
                    custom_error_type="task",
                    custom_error_message='a task is a registered one\'s name, or an outline {"name", "kind", …}',
                ),
            ]
        ],
        Field(min_length=1, max_length=4096, examples=[["circle_task"], _OUTLINES]),
    ]
    """Names of registered tasks, each once; with an architecture, outlines of the model's own tasks."""


class TaskRef(In, json_schema_extra=shown_as({"task": "circle_task"})):
    """A registered task to put on a model."""

    task: Name


def _form_of_placed(value: object) -> str:
    # What names neither is told what an outline needs: most models that gain tasks bit by bit have one.
    named = isinstance(value, TaskRef) or (isinstance(value, Mapping) and "task" in value)
    return "registered" if named else "outline"


TaskToPut = Annotated[
    Annotated[TaskRef, Tag("registered")] | Annotated[TaskOutline, Tag("outline")],
    Discriminator(_form_of_placed),
]
"""A task to put on a model: a registered one's name, or an outline where the model has an architecture."""

TASK_TO_PUT: dict[str, Any] = {
    "registered": {"summary": "A registered task", "value": {"task": "circle_task"}},
    "outline": {"summary": "For a model with an architecture", "value": _OUTLINES[1]},
}
"""Examples of :data:`TaskToPut`, as OpenAPI shows them."""


class InputFieldOut(Out):
    """A field that a task reads."""

    shape: list[int] | None
    """Shape of one example; null where only a dataset will tell."""
    dtype: str


_TASK: dict[str, Any] = {
    "name": "income",
    "module_pool": {
        "trunk": {
            "type": "Sequential",
            "layers": [{"type": "LazyLinear", "out_features": 8}, {"type": "ReLU"}],
        },
        "head_income": {"type": "Linear", "in_features": 8, "out_features": 1},
    },
    "op_sequence": [
        {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", "x"]]},
        {"name": "head_income", "module_name": "head_income", "inputs": ["trunk"]},
    ],
    "loss": "binary_cross_entropy",
    "output": "sigmoid",
    "metrics": ["accuracy"],
    "registered": False,
    "outline": {"name": "income", "kind": "binary"},
    "parameters": {"trunk": 0, "head_income": 9},
    "input_fields": {"x": {"shape": None, "dtype": "float32"}},
    "output_shape": None,
}


class ModelTaskOut(TaskSpec, extra="ignore", json_schema_extra=shown_as(_TASK)):
    """A task of a model, written out, and what checking it found."""

    registered: bool
    """Whether it is a registered task; else it is the model's own."""
    outline: TaskOutline | None
    """What the model's own task was made from."""
    parameters: dict[str, int]
    """Numbers that each module holds; a layer whose input's size comes with the data counts none yet."""
    input_fields: dict[str, InputFieldOut]
    output_shape: list[int] | None
    """Shape of the task's output for one example; null where an input's shape is not known yet."""


class ModuleOut(Out):
    """A module of a model."""

    name: str
    parameters: int
    """Numbers that it holds."""
    used_by: list[str]
    """Tasks whose paths lead through it."""


class SourceOut(Out):
    """Where a node's input comes from: a field, or another node's output, whole or one entry of it."""

    field: str | None = None
    node: int | None = None
    index: str | int | None = None


class NodeOut(Out):
    """A distinct operation: what several tasks would compute alike is one node, and runs once."""

    id: int
    module: str
    inputs: list[SourceOut]
    operations: list[str]
    """The operations that it stands for, as `task/operation`."""


class GraphOut(Out):
    """The network that the tasks' paths make together."""

    nodes: list[NodeOut]
    outputs: dict[str, int]
    """The node that answers each task."""


class VersionSummary(Out, json_schema_extra=shown_as(_VERSION)):
    """A trained model."""

    model: str
    version: int
    aliases: list[str]
    """Names that stand for it now."""
    run: str
    """The run that made it."""
    tasks: list[str]
    parameters: int
    bytes: int
    """Size of its weights, a safetensors file."""
    sha256: str
    """Checksum of its weights."""
    created_at: datetime


class VersionOut(
    VersionSummary,
    json_schema_extra=shown_as(_VERSION | {"scores": {"circle_task/circleDataset/train/accuracy": 0.9725}}),
):
    """A trained model with its scores."""

    scores: dict[str, float | None]
    """By `task/dataset/split/metric`; null where a metric is undefined."""


class ModelOut(Out, json_schema_extra=shown_as(_MODEL)):
    """A model: its tasks, the modules they share, and its versions."""

    name: str
    tasks: list[str]
    architecture: Architecture | None
    """The short form that the tasks were made from; null for a model of registered tasks."""
    modules: list[ModuleOut]
    parameters: int
    """Numbers that all modules hold together."""
    graph: GraphOut
    versions: list[int]
    default_version: int | None
    """The version that predictions use unless they name another: the newest, or where the alias `default` was put."""
    aliases: dict[str, int]
    serving: Serving
    """How its predictions are computed."""
    created_at: datetime


class ModelChange(In, json_schema_extra=shown_as({"serving": {"max_batch_rows": 64, "max_delay_ms": 2}})):
    """What of a model is to be changed."""

    serving: Serving
    """How its predictions are to be computed from now on; what is not given is as by default."""


class ModelSummary(Out, json_schema_extra=shown_as(_SUMMARY)):
    """A model in a list."""

    name: str
    tasks: list[str]
    versions: list[int]
    default_version: int | None
    created_at: datetime


class AliasIn(In, json_schema_extra=shown_as({"version": 1})):
    """Where to put an alias."""

    version: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
