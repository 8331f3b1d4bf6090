"""HTTP of exports and imports."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response

from app.exports import service
from app.exports.schemas import ExportIn
from app.http.endpoint import Endpoint, FileEndpoint
from app.http.receiving import ReceivedFile
from app.http.resources import ClientDep, ModelPath, ResourcesDep, SessionDep, VersionPath
from app.models import service as models
from app.problems import problem_responses
from app.runs.answers import run_out
from app.runs.schemas import RunOut
from app.runs.service import check_queue

router = APIRouter(tags=["models"])
_exports = APIRouter(prefix="/models/{model}/versions", route_class=Endpoint)
_imports = APIRouter(prefix="/models/{model}/versions", route_class=FileEndpoint)

_ARCHIVE = {
    "required": True,
    "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
}


@_exports.post(
    "/{version}/exports",
    status_code=202,
    summary="Export a version",
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_export(
    model: ModelPath,
    version: VersionPath,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
    body: ExportIn,
) -> RunOut:
    """Queue an export of a version, whole or some of its tasks; a worker writes a file, `GET /v1/runs/{run}/result`."""
    row = models.get(session, model)
    found = models.find_version(session, row, version)
    check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_export(session, found, body, client)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)


@_imports.post(
    "",
    status_code=201,
    summary="Import a version",
    openapi_extra={"requestBody": _ARCHIVE},
    responses=problem_responses(400, 409, 413, 415, 422),
)
async def import_version(
    request: Request,
    model: ModelPath,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
    content_digest: Annotated[
        str | None, Header(description="`sha-256=:…:` (RFC 9530), which the file is then held against.")
    ] = None,
) -> RunOut:
    """Make a version of a bundle that was exported here or elsewhere; where there is no such model, one of its tasks.

    The answer is a run that is over: `model_version` says which version it became.
    """
    del content_digest  # checked while the body came
    received: ReceivedFile = request.state.received

    def add() -> RunOut:
        limits = resources.settings.limits
        found = service.read_import(resources.store, resources.encoders, received.path, limits)
        run = service.add_import(session, model, found, received.sha256, limits, client)
        response.headers["Location"] = f"/v1/models/{model}/versions/{run.model_version}"
        return run_out(run)

    return await to_thread.run_sync(add, limiter=request.app.state.reading_slots)


router.include_router(_imports)
router.include_router(_exports)
