"""Whether the service is up, whether it can work, and its measures."""

from __future__ import annotations

import os

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy.exc import SQLAlchemyError

from app.db import migrations
from app.http.resources import ResourcesDep
from app.problems import NotReady, problem_responses
from app.wire import Out

router = APIRouter(tags=["health"])


class HealthOut(Out):
    """The process answers."""

    status: str = "ok"


class ReadyOut(Out):
    """The process can work."""

    status: str = "ready"
    database: str
    version: str


@router.get("/healthz", summary="Is the process up")
def healthz() -> HealthOut:
    """Answer as long as the process is up."""
    return HealthOut()


@router.get("/readyz", summary="Can the service work", responses=problem_responses())
def readyz(resources: ResourcesDep, request: Request) -> ReadyOut:
    """Check that the database answers at the newest revision and that artifacts can be written."""
    try:
        behind = migrations.pending(resources.db.engine)
        resources.store.check_writable()
    except (SQLAlchemyError, OSError) as error:
        raise NotReady(f"{type(error).__name__}: {error}") from error
    if behind:
        raise NotReady(behind)
    return ReadyOut(database=resources.db.engine.dialect.name, version=request.app.version)


@router.get(
    "/metrics",
    summary="Measures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics() -> Response:
    """Return counts and times of requests, and the process's own measures, in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        # Of all processes of the server together.
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
