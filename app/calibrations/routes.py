"""HTTP of calibrations; as runs, they are listed, followed, cancelled and resumed like all others."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.calibrations import service
from app.calibrations.schemas import CalibrateIn, CalibrationOut
from app.http.endpoint import Endpoint
from app.http.resources import ClientDep, ModelPath, ResourcesDep, RunPath, SessionDep, VersionPath
from app.models import service as models
from app.problems import problem_responses
from app.runs import service as runs
from app.runs.answers import run_out
from app.runs.schemas import RunOut

router = APIRouter(tags=["calibrations"], route_class=Endpoint)


@router.post(
    "/models/{model}/versions/{version}/calibrations",
    status_code=202,
    summary="Calibrate a version",
    responses=problem_responses(400, 404, 409, 413, 415, 422, 429),
)
def start_calibration(
    model: ModelPath,
    version: VersionPath,
    body: CalibrateIn,
    client: ClientDep,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
) -> RunOut:
    """Queue a calibration: temperatures are fitted to a split, and a version is made that answers with them.

    The version that was calibrated stays as it is. Both get the scores `calibration_error` and
    `classwise_calibration_error`.
    """
    row = models.get(session, model)
    found = models.find_version(session, row, version)
    runs.check_queue(session, client, resources.settings.max_queued_runs)
    run = service.enqueue_calibration(
        session, resources.store, resources.encoders, row, found, body, resources.settings.limits, client
    )
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return run_out(run)


@router.get(
    "/runs/{run}/calibration",
    summary="Read what a calibration came to",
    responses=problem_responses(404, 422),
)
def get_calibration(run: RunPath, session: SessionDep) -> CalibrationOut:
    """Return the temperatures of each task, and how good its probabilities were before and are now."""
    return CalibrationOut.model_validate(service.calibration_of(runs.get(session, run)))
