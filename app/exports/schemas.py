"""Exports of versions as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.runs.schemas import Queued
from app.wire import shown_as
from mtl_core.specs import Name


class ExportIn(Queued, json_schema_extra=shown_as({"format": "bundle", "tasks": ["circle_task"]})):
    """An export to be made."""

    format: Literal["bundle", "program", "onnx"] = "bundle"
    """`bundle` is specs and safetensors, to be imported again; `program` is what `torch.export.load` takes; `onnx` is
    for any runtime, and is held against what onnxruntime answers. All are ZIP files, with how raw columns become fields
    beside the model."""
    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)] | None = None
    """Names of tasks; null for all of the version's. What only others need is left out."""
