"""HTTP of runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from app.db.tables import Run, RunEvent
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import ClientDep, ModelPath, NameQuery, ResourcesDep, RunPath, SessionDep, VersionPath
from app.models import service as models
from app.problems import NotFound, problem_responses
from app.runs import events, service
from app.runs.answers import run_out
from app.runs.results import file_of
from app.runs.schemas import MetricsOut, ResumeIn, RunOut, RunStatus, ScoreIn, TrainIn, VerdictOut
from app.runs.verdict import verdict_of
from mtl_core.specs import NAME_PATTERN

router = APIRouter(route_class=Endpoint)

_EVENT_POLL_SECONDS = 0.25
_AS_BEFORE = ResumeIn()
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_LOG_FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/zip": _BINARY}, "description": "The files that the log writer wrote"}
}
_RESULT_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": dict.fromkeys(
            ("application/vnd.apache.parquet", "application/jsonl", "application/zip"), _BINARY
        ),
        "description": "The file",
    }
}


@router.post(
    "/models/{model}/runs",
    status_code=202,
    summary="Start a training",
    tags=["runs"],
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_run(
    model: ModelPath,
    body: TrainIn,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
) -> RunOut:
    """Queue a training of the model on datasets; a worker takes it up."""
    row = models.get(session, model)
    service.check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_training(
        session, resources.store, resources.encoders, row, body, resources.settings.limits, client
    )
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)


@router.post(
    "/models/{model}/versions/{version}/scores",
    status_code=202,
    summary="Score a version on further data",
    tags=["scores"],
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_scoring(
    model: ModelPath,
    version: VersionPath,
    body: ScoreIn,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
) -> RunOut:
    """Queue a scoring: every task of the version, on every split of the datasets that carries its labels."""
    row = models.get(session, model)
    found = models.find_version(session, row, version)
    service.check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_scoring(
        session, resources.store, resources.encoders, row, found, body, resources.settings.limits, client
    )
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)


@router.get("/runs", tags=["runs"], summary="List runs", responses=problem_responses(422))
def list_runs(
    session: SessionDep,
    paging: PagingDep,
    model: NameQuery = None,
    status: Annotated[RunStatus | None, Query()] = None,
    parent: Annotated[
        str | None, Query(max_length=40, pattern=NAME_PATTERN, description="Only the trials of this search.")
    ] = None,
) -> Page[RunOut]:
    """List runs, newest first."""
    statement = select(Run)
    if parent:
        statement = statement.where(Run.parent == parent)
    if model:
        statement = statement.where(Run.model == model)
    if status:
        statement = statement.where(Run.status == status)
    return paging.page(session, statement, Run.id, run_out, newest_first=True)


@router.get("/runs/{run}", tags=["runs"], summary="Read a run", responses=problem_responses(404, 422))
def get_run(run: RunPath, session: SessionDep) -> RunOut:
    """Return a run's status and progress."""
    return run_out(service.get(session, run))


@router.get(
    "/runs/{run}/metrics",
    tags=["runs"],
    summary="Read a run's metrics",
    responses=problem_responses(404, 422),
)
def get_run_metrics(run: RunPath, session: SessionDep) -> MetricsOut:
    """Return every series that the run logged: losses, learning rate and validation scores."""
    row = service.get(session, run)
    series = service.metric_series(events.all_of(session, row.id, "metrics"))
    return MetricsOut(run=row.id, series=series)


@router.get(
    "/runs/{run}/log",
    tags=["runs"],
    summary="Download a run's log",
    response_class=Response,
    responses=_LOG_FILES | problem_responses(404, 422),
)
def get_run_log(run: RunPath, session: SessionDep, resources: ResourcesDep) -> Response:
    """Download what the run's log writer wrote, as a ZIP file.

    There is a log when the trainer settings had `logging` on: `log.json`, or an event file for TensorBoard.
    """
    row = service.get(session, run)
    if row.log is None:
        raise NotFound(f"run '{run}' has no log: it was started without logging, or has not trained yet")
    return FileResponse(
        resources.store.path(row.log), media_type="application/zip", filename=f"{run}-log.zip"
    )


@router.get(
    "/runs/{run}/result",
    tags=["runs"],
    summary="Download a run's result",
    response_class=Response,
    responses=_RESULT_FILES | problem_responses(404, 422),
)
def get_run_result(run: RunPath, session: SessionDep, resources: ResourcesDep) -> Response:
    """Download the file that a prediction of many rows, or an export, ended with; `Range` takes parts of it."""
    file = file_of(service.get(session, run))
    if file is None:
        raise NotFound(
            f"run '{run}' has no result: it is not over, ends with none, or its result was removed"
        )
    return FileResponse(resources.store.path(file.sha256), media_type=file.media_type, filename=file.filename)


@router.get(
    "/runs/{run}/verdict",
    tags=["runs"],
    summary="Read a run's verdict on sharing",
    responses=problem_responses(404, 422),
)
def get_run_verdict(run: RunPath, session: SessionDep) -> VerdictOut:
    """Return what sharing gained or lost for each task.

    There is a verdict when the training was started with `verdict` and has succeeded.
    """
    row = service.get(session, run)
    return VerdictOut.model_validate({"run": row.id, **verdict_of(row)})


def _known_run(run: RunPath, session: SessionDep) -> str:
    """Answer 404 for a run that is not there before its stream begins."""
    return service.get(session, run).id


@router.get(
    "/runs/{run}/events",
    summary="Follow a run",
    tags=["runs"],
    response_class=EventSourceResponse,
    responses=problem_responses(404, 422),
)
async def follow_run(
    run: Annotated[str, Depends(_known_run)],
    resources: ResourcesDep,
    last_event_id: Annotated[
        str | None, Header(pattern=r"^\d{1,9}$", description="Go on after this event.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream `status`, `progress`, `metrics` and `log` events as they happen, until the run is over.

    A stream that ends before the final `status` was broken off, as by a server that is restarted: take it up again with
    `Last-Event-ID`, as every browser does by itself.
    """
    seq = int(last_event_id or 0)

    def read() -> tuple[bool, list[RunEvent]]:
        with resources.db.read() as session:
            # Read before the events, so that a run found over has all of its events there.
            is_over = service.get(session, run).status in service.OVER
            return is_over, events.after(session, run, seq)

    while not resources.is_stopping():
        is_over, batch = await run_in_threadpool(read)
        for event in batch:
            seq = event.seq
            yield ServerSentEvent(id=str(seq), event=event.kind, data=event.data)
        if is_over and not batch:
            return
        if not batch:
            await asyncio.sleep(_EVENT_POLL_SECONDS)


@router.post(
    "/runs/{run}/cancel",
    status_code=202,
    tags=["runs"],
    summary="Cancel a run",
    responses=problem_responses(404, 409, 422),
)
def cancel_run(run: RunPath, session: SessionDep) -> RunOut:
    """Cancel a run: at once while it is queued, within a moment while it trains."""
    row = service.get(session, run, lock=True)
    service.cancel(session, row)
    return run_out(row)


@router.post(
    "/runs/{run}/resume",
    status_code=202,
    tags=["runs"],
    summary="Resume a run",
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def resume_run(run: RunPath, session: SessionDep, body: ResumeIn = _AS_BEFORE) -> RunOut:
    """Queue a failed or cancelled run again; it goes on from its last snapshot and ends as if it had never stopped."""
    row = service.get(session, run, lock=True)
    service.resume(session, row, body.limits)
    return run_out(row)
