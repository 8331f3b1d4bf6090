"""HTTP of predictions of whole tables; as runs, they are listed, followed, cancelled and resumed like all others."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.batch_predictions import service
from app.batch_predictions.schemas import BatchIn
from app.http.endpoint import Endpoint
from app.http.resources import ClientDep, ModelPath, ResourcesDep, SessionDep
from app.models import service as models
from app.problems import problem_responses
from app.runs.answers import run_out
from app.runs.schemas import RunOut
from app.runs.service import check_queue

router = APIRouter(tags=["predictions"], route_class=Endpoint)


@router.post(
    "/models/{model}/predictions",
    status_code=202,
    summary="Predict a whole table",
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_prediction(
    model: ModelPath,
    body: BatchIn,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
) -> RunOut:
    """Queue a prediction of all rows of a dataset or an upload; a worker writes a file, `GET /v1/runs/{run}/result`."""
    row = models.get(session, model)
    check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_prediction(session, resources.store, resources.encoders, row, body, client)
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)
