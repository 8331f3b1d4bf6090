"""The server: what is mounted where, and what it opens and closes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import torch
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from app import catalogue, health
from app.batch_predictions import routes as batch_predictions
from app.calibrations import routes as calibrations
from app.cards import routes as cards
from app.datasets import routes as datasets
from app.db.session import Database
from app.exports import routes as exports
from app.http.direct import DirectFirst
from app.http.errors import install_handlers
from app.http.middleware import RequestMiddleware, Told
from app.http.receiving import Intake
from app.http.resources import Resources
from app.logs import get_logger
from app.models import routes as models
from app.open_inference import routes as open_inference
from app.predictions import routes as predictions
from app.predictions.current import CurrentVersions
from app.predictions.loaded import Loader
from app.problems import ProblemOut
from app.request_log import routes as requests
from app.request_log.recording import RequestLog
from app.runs import routes as runs
from app.scores import routes as scores
from app.searches import routes as searches
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from app.tasks import routes as tasks
from app.tasks.service import warm_up
from app.uploads import routes as uploads

log = get_logger(__name__)

_DESCRIPTION = """
One shared PyTorch model for many related tasks. Register **tasks** (paths through a network of modules shared by name)
and **datasets**, make a **model** of tasks, start a **run**; then read **scores** and ask for **predictions**.
"""


def create_app(
    settings: Settings,
    is_stopping: Callable[[], bool] = lambda: False,
    in_flight: Callable[[], int] = lambda: 2,
) -> DirectFirst:
    """Return the server's ASGI application; its database must be at the newest revision.

    Args:
        settings: Its settings.
        is_stopping: Whether the server was told to stop, so that what would go on for long should end.
        in_flight: How many requests the server is answering: a prediction that comes alone waits for no other. Default:
            as if there were always others.
    """

    told = Told()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        db = Database(settings.resolved_database_url)
        store = ArtifactStore(settings.artifacts_dir)
        encoders = SentenceEncoders(settings.sentence_encoders)
        app.state.resources = Resources(
            settings, db, store, encoders, is_stopping, Intake(settings.max_intake_bytes)
        )
        app.state.reading_slots = CapacityLimiter(settings.reading_slots)
        loader = Loader(store, settings.limits, encoders)
        torch.set_num_threads(settings.resolved_serving_threads)
        request_log = app.state.request_log = RequestLog(db)
        app.state.current_versions = CurrentVersions(
            db, loader, settings, lambda: told.times, in_flight, request_log
        )
        keeping = asyncio.create_task(app.state.current_versions.keep())
        keeping.add_done_callback(_log_end)
        # torch loads what the first check of a task needs, some two seconds' worth, while nobody waits for it.
        warming = threading.Thread(target=_warm_up, daemon=True, name="warm-up")
        warming.start()
        yield
        keeping.cancel()
        app.state.current_versions.close()
        request_log.close()
        # A thread that is still within torch when the interpreter ends aborts the process.
        warming.join()
        db.dispose()

    app = FastAPIOffline(
        title="Taskloom",
        version=version("taskloom"),
        summary="Multi-task learning as a service",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )
    app.add_middleware(RequestMiddleware, told=told)
    install_handlers(app)
    v1 = APIRouter(prefix="/v1")
    for feature in (
        *(tasks, uploads, datasets, models, cards, runs, searches, scores),
        *(batch_predictions, calibrations, exports, requests, catalogue),
    ):
        v1.include_router(feature.router)
    app.include_router(v1)
    for router in (predictions.router, open_inference.direct, open_inference.router):
        app.include_router(router)
    app.include_router(health.router)

    @app.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    _describe_problems(app)
    return DirectFirst([*predictions.router.routes, *open_inference.direct.routes], app)


def _log_end(keeping: asyncio.Task[None]) -> None:
    if not keeping.cancelled() and keeping.exception() is not None:
        log.error("names of versions are no longer looked up in advance", exc_info=keeping.exception())


def _warm_up() -> None:
    warm_up()
    # Of what has come by now, all stays: looking through it again and again would hold requests up for 50 ms each time.
    gc.collect()
    gc.freeze()


def _operation_id(route: APIRoute) -> str:
    return route.name


def _describe_problems(app: FastAPI) -> None:
    """Put the problem's schema, which no route answers as its model, into the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schema = ProblemOut.model_json_schema(ref_template="#/components/schemas/{model}")
        fault = schema.pop("$defs")["FaultOut"]
        document["components"]["schemas"] |= {"ProblemOut": schema, "FaultOut": fault}
        return document

    app.openapi = openapi
