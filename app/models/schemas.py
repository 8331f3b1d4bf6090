"""Models, versions and aliases as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mtl_core.specs import Name


class ModelIn(BaseModel):
    """A model to be made of registered tasks."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"name": "shapes", "tasks": ["circle_task"]}]},
    )

    name: Name
    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)]
    """Names of registered tasks, each once."""


class TaskRef(BaseModel):
    """A registered task to put on a model."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"task": "circle_task"}]})

    task: Name


class ModuleOut(BaseModel):
    """A module of a model."""

    name: str
    parameters: int
    """Numbers that it holds."""
    used_by: list[str]
    """Tasks whose paths lead through it."""


class SourceOut(BaseModel):
    """Where a node's input comes from: a field, or another node's output, whole or one entry of it."""

    field: str | None = None
    node: int | None = None
    index: str | int | None = None


class NodeOut(BaseModel):
    """A distinct operation: what several tasks would compute alike is one node, and runs once."""

    id: int
    module: str
    inputs: list[SourceOut]
    operations: list[str]
    """The operations that it stands for, as `task/operation`."""


class GraphOut(BaseModel):
    """The network that the tasks' paths make together."""

    nodes: list[NodeOut]
    outputs: dict[str, int]
    """The node that answers each task."""


class VersionSummary(BaseModel):
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


class VersionOut(VersionSummary):
    """A trained model with its scores."""

    scores: dict[str, float | None]
    """By `task/dataset/split/metric`; null where a metric is undefined."""


class ModelOut(BaseModel):
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


class ModelSummary(BaseModel):
    """A model in a list."""

    name: str
    tasks: list[str]
    versions: list[int]
    default_version: int | None
    created_at: datetime


class AliasIn(BaseModel):
    """Where to put an alias."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 1}]})

    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
