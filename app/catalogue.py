"""What specs may be made of, with the arguments that each part takes."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from app.http.endpoint import Endpoint
from app.problems import problem_responses
from app.runs.job import RunTrainerConfig
from app.wire import Out
from mtl_core.losses import LOSSES
from mtl_core.metrics import METRICS
from mtl_core.modules import MODULES
from mtl_core.outputs import OUTPUTS

router = APIRouter(tags=["modules"], route_class=Endpoint)


class EntryOut(Out):
    """A part that a spec may name."""

    type: str
    summary: str
    arguments: dict[str, Any] = Field(description="JSON Schema of its arguments.")


class CatalogueOut(Out):
    """Everything that specs may be made of."""

    modules: list[EntryOut]
    losses: list[EntryOut]
    outputs: list[EntryOut]
    metrics: list[EntryOut]
    trainer: dict[str, Any] = Field(
        description="JSON Schema of a training's settings, schedulers among them."
    )


@router.get("/modules", summary="List what specs may be made of", responses=problem_responses())
def list_modules() -> CatalogueOut:
    """Return module types, losses, output functions, metrics and trainer settings with their argument schemas."""
    return _catalogue()


@cache
def _catalogue() -> CatalogueOut:
    return CatalogueOut.model_validate(
        {
            "modules": MODULES.describe(),
            "losses": LOSSES.describe(),
            "outputs": OUTPUTS.describe(),
            "metrics": METRICS.describe(),
            "trainer": RunTrainerConfig.model_json_schema(),
        }
    )
