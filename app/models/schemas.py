"""Models, versions and aliases as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.wire import In, Out, shown_as
from mtl_core.specs import Name

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
_MODEL = _SUMMARY | {
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
}


class ModelIn(In, json_schema_extra=shown_as({"name": "shapes", "tasks": ["circle_task"]})):
    """A model to be made of registered tasks."""

    name: Name
    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)]
    """Names of registered tasks, each once."""


class TaskRef(In, json_schema_extra=shown_as({"task": "circle_task"})):
    """A registered task to put on a model."""

    task: Name


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
    modules: list[ModuleOut]
    parameters: int
    """Numbers that all modules hold together."""
    graph: GraphOut
    versions: list[int]
    default_version: int | None
    """The version that predictions use unless they name another: the newest, or where the alias `default` was put."""
    aliases: dict[str, int]
    created_at: datetime


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
