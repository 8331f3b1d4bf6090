"""HTTP of searches; as runs, they are listed, followed, cancelled and resumed like all others."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.http.endpoint import Endpoint
from app.http.resources import ClientDep, ModelPath, ResourcesDep, RunPath, SessionDep
from app.models import service as models
from app.problems import problem_responses
from app.runs.answers import run_out
from app.runs.schemas import RunOut
from app.runs.service import check_queue
from app.searches import service
from app.searches.planning import Surroundings
from app.searches.schemas import SearchIn, SearchOut

router = APIRouter(tags=["searches"], route_class=Endpoint)


@router.post(
    "/models/{model}/searches",
    status_code=202,
    summary="Start a search",
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_search(
    model: ModelPath,
    body: SearchIn,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
) -> RunOut:
    """Search settings of the training, and sizes of the architecture; the best training becomes a version.

    The search is a run, and so is each of its trials: `GET /v1/runs?parent=…` lists them.
    """
    around = Surroundings(session, resources.store, resources.encoders, resources.settings.limits)
    check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_search(around, models.get(session, model), body, client)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)


@router.get(
    "/runs/{run}/search",
    summary="Read what a search has found",
    responses=problem_responses(404, 422),
)
def get_search(run: RunPath, session: SessionDep) -> SearchOut:
    """Return every trial of a search, with its parameters and its value, and the best of them."""
    return service.trials_of(session, service.get(session, run))
