"""What specs may be made of, with the arguments that each part takes."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from fastapi import APIRouter
from pydantic import Field, TypeAdapter

from app.http.endpoint import Endpoint
from app.problems import problem_responses
from app.runs.trainer_config import RunTrainerConfig
from app.wire import Out
from mtl_core.architectures import Architecture
from mtl_core.kinds import KINDS
from mtl_core.losses import LOSSES
from mtl_core.modules import MODULES
from mtl_core.outputs import OUTPUTS
from mtl_core.preprocessing import ColumnSpec, LabelSpec
from mtl_core.scoring.metrics import METRICS
from mtl_core.training.balancing import BALANCERS

router = APIRouter(tags=["modules"], route_class=Endpoint)


class EntryOut(Out):
    """A part that a spec may name."""

    type: str
    summary: str
    arguments: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class CatalogueOut(Out):
    """Everything that specs may be made of."""

    modules: list[EntryOut]
    kinds: list[EntryOut]
    losses: list[EntryOut]
    outputs: list[EntryOut]
    metrics: list[EntryOut]
    balancing: list[EntryOut] = Field(description="Ways in which a training weighs its tasks.")
    architecture: dict[str, Any] = Field(
        description="JSON Schema of the architectures of a model in short form."
    )
    columns: list[EntryOut] = Field(description="Types of a dataset's columns, with the options of each.")
    label: dict[str, Any] = Field(description="JSON Schema of what a dataset says of a task's labels.")
    trainer: dict[str, Any] = Field(
        description="JSON Schema of a training's settings, schedulers among them."
    )


@router.get("/modules", summary="List what specs may be made of", responses=problem_responses())
def list_modules() -> CatalogueOut:
    """Return all that specs and datasets may name, with argument schemas: modules, losses, column types …"""
    return _catalogue()


def column_types() -> list[dict[str, Any]]:
    """Return the types of columns as the catalogues describe theirs: ``type``, ``summary`` and ``arguments``."""
    entries: list[dict[str, Any]] = []
    for model in get_args(get_args(ColumnSpec)[0]):
        schema = model.model_json_schema()
        kind = schema["properties"].pop("type")["const"]
        entries.append({"type": kind, "summary": schema.pop("description"), "arguments": schema})
    return entries


@cache
def _catalogue() -> CatalogueOut:
    return CatalogueOut.model_validate(
        {
            "modules": MODULES.describe(),
            "kinds": KINDS.describe(),
            "losses": LOSSES.describe(),
            "outputs": OUTPUTS.describe(),
            "metrics": METRICS.describe(),
            "balancing": BALANCERS.describe(),
            "architecture": TypeAdapter(Architecture).json_schema(),
            "columns": column_types(),
            "label": LabelSpec.model_json_schema(),
            "trainer": RunTrainerConfig.model_json_schema(),
        }
    )
