"""The rules for calibrations: planned as scorings are, and ended as trainings are, with a version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from app.calibrations.schemas import CalibrateIn
from app.db.tables import Model, Run, Version
from app.models import service as models
from app.problems import Invalid, NotFound
from app.runs import lease
from app.runs.initial import whole_version
from app.runs.job import Job
from app.runs.lease import Claim
from app.runs.planning import plan_job
from app.runs.preprocessing import load_preprocessing
from app.runs.service import add_version, enqueue, finite_or_none, job_of
from app.runs.trainer_config import RunTrainerConfig
from app.runs.transitions import end
from app.scores.service import add_scores
from app.storage.artifacts import ArtifactStore, StoredTensors
from app.storage.encoders import SentenceEncoders
from mtl_core.building.tasks import Limits
from mtl_core.calibration import CalibratedTask, Calibration, calibration_obstacle
from mtl_core.errors import Fault, pointer_to
from mtl_core.scoring.scorer import Score
from mtl_core.specs import TaskSpec

KIND = "calibrate"


def enqueue_calibration(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    model: Model,
    version: Version,
    request: CalibrateIn,
    limits: Limits,
    client: str,
) -> Run:
    """Accept a calibration of a version.

    Raises:
        Invalid: If the version has no such task, or one that cannot be calibrated; a dataset is unknown, or does not
            suit the version's tasks; or none has the split.
    """
    specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
    _check_tasks(version, specs, request.tasks)
    trained = session.get_one(Run, version.run)
    datasets = request.datasets or list(
        dict.fromkeys(f"{ref.dataset}@{ref.version}" for ref in job_of(trained).splits)
    )
    if not datasets:
        raise Invalid.at("/datasets", f"version {version.number} was not trained here: name datasets")
    split = request.split or _watched(trained)
    given = load_preprocessing(store, version.preprocessing)
    job = plan_job(session, store, encoders, specs, datasets, limits, given)
    if all(ref.split != split for ref in job.splits):
        raise Invalid.at("/split", f"none of the datasets {datasets} has the split '{split}' with labels")
    asked = request.model_dump(mode="json") | {"datasets": datasets, "split": split}
    job = job.model_copy(update={"init_from": version.number, "weights": [whole_version(version)]})
    return enqueue(
        session,
        KIND,
        model.name,
        asked,
        job,
        client=client,
        priority=request.priority,
    )


def request_of(run: Run) -> CalibrateIn:
    """Return what was asked for, defaults filled in."""
    return CalibrateIn.model_validate(run.request)


def finish_calibration(
    session: Session,
    claim: Claim,
    job: Job,
    calibration: Calibration,
    weights: StoredTensors,
    before: Sequence[Score],
    after: Sequence[Score],
) -> int:
    """End a calibration: its version, scores and status appear together.

    Args:
        session: The transaction.
        claim: The worker's hold on the run.
        job: What it was to do.
        calibration: What came of it.
        weights: Those of the calibrated model.
        before: Scores of the version that was calibrated.
        after: Scores of the new one.

    Returns:
        The new version's number.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    assert job.init_from is not None
    number = add_version(session, run, job.model_copy(update={"tasks": calibration.specs}), weights, after)
    add_scores(session, run, before, job.init_from)
    run.result = {
        "tasks": {name: _report(task) for name, task in calibration.tasks.items()},
        "left_out": calibration.left_out,
    }
    end(session, run, "succeeded")
    return number


def calibration_of(run: Run) -> dict[str, Any]:
    """Return what a calibration came to.

    Raises:
        NotFound: If the run is none, or has not succeeded.
    """
    if run.kind != KIND or run.result is None:
        raise NotFound(f"run '{run.id}' has no calibration: it is none, or has not succeeded")
    return {
        "run": run.id,
        "model": run.model,
        "from_version": job_of(run).init_from,
        "version": run.model_version,
        "split": run.request["split"],
        **run.result,
    }


def _check_tasks(version: Version, specs: Sequence[TaskSpec], wanted: Sequence[str] | None) -> None:
    models.check_tasks_of(version, wanted)
    obstacles = {spec.name: calibration_obstacle(spec) for spec in specs}
    faults = [
        Fault(pointer_to("tasks", i), f"task '{name}' cannot be calibrated: {obstacles[name]}")
        for i, name in enumerate(wanted or [])
        if obstacles[name]
    ]
    if faults:
        raise Invalid(faults[0].detail, faults)
    if all(obstacles.values()):
        raise Invalid.at("/tasks", f"none of the version's tasks can be calibrated: {obstacles}")


def _watched(trained: Run) -> str:
    """Return the split that a training was watched on."""
    config = RunTrainerConfig.model_validate(trained.request.get("trainer", {}))
    return config.valid_split


def _report(task: CalibratedTask) -> dict[str, Any]:
    report = asdict(task)
    return report | {
        "before": finite_or_none(report["before"]),
        "after": finite_or_none(report["after"]),
        "temperatures": [round(temperature, 6) for temperature in task.temperatures],
    }
