"""The rules for runs: enqueued in one transaction, cancelled and resumed, ended once with all that they made."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from ulid import ULID

from app.db.session import database_now
from app.db.tables import Model, Run, RunEvent, Version
from app.models import service as models
from app.problems import Conflict, Invalid, NotFound, QueueFull, missing
from app.runs import events, lease
from app.runs.initial import find_start
from app.runs.job import Job
from app.runs.lease import Claim
from app.runs.limits import Allowance
from app.runs.planning import plan_job
from app.runs.preprocessing import Preprocessing, load_preprocessing
from app.runs.schemas import MetricPoint, RunKind, RunLimits, ScoreIn, TrainIn
from app.runs.snapshots import kept
from app.runs.trainer_config import RunTrainerConfig, check_settings
from app.runs.transitions import end, requeue, status_event, stop
from app.runs.verdict import check_verdict, verdict_scores
from app.scores.service import add_scores
from app.storage.artifacts import ArtifactStore, StoredTensors
from app.storage.encoders import SentenceEncoders
from mtl_core.building.tasks import Limits
from mtl_core.scoring.scorer import Score
from mtl_core.sharing import SharingVerdict
from mtl_core.specs import TaskSpec

OVER = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class PlannedTraining:
    """A training that nothing speaks against.

    Attributes:
        job: What a worker is to do.
        modules: Names of the model's modules.
    """

    job: Job
    modules: list[str]

    def check(self, trainer: RunTrainerConfig) -> None:
        """Hold settings against what is trained and logged.

        Raises:
            Invalid: If they name a module or score that the training does not have.
        """
        keys = self.job.logged_keys(trainer.train_split, trainer.valid_split)
        check_settings(trainer, self.modules, self.job.frozen, keys)


def enqueue_training(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    model: Model,
    request: TrainIn,
    limits: Limits,
    client: str,
) -> Run:
    """Accept a training.

    Raises:
        Invalid: If a dataset is unknown or does not suit the tasks, none has the train split, there is no such
            version to start from, the settings name a module or score that the training does not have, or there is
            nothing for a verdict on sharing to compare.
    """
    specs = models.specs_of(model)
    planned = plan_training(session, store, encoders, model, specs, request, limits)
    if request.verdict:
        check_verdict(planned.job, request.trainer)
    asked = request.model_dump(mode="json")
    return enqueue(session, "train", model.name, asked, planned.job, client=client, priority=request.priority)


def plan_training(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    model: Model,
    specs: Sequence[TaskSpec],
    request: TrainIn,
    limits: Limits,
    given: Preprocessing | None = None,
) -> PlannedTraining:
    """Check a training and pin all that it needs.

    Args:
        session: The transaction.
        store: Where summaries are, and the preprocessing goes.
        encoders: Sentence encoders for columns of text.
        model: The model.
        specs: Its tasks.
        request: What the client asks for.
        limits: What a spec may ask for.
        given: What was fitted before; default: what the version was fitted for that the training starts from.

    Raises:
        Invalid: If a dataset is unknown or does not suit the tasks, none has the train split, there is no such
            version to start from, or the settings name a module or score that the training does not have.
    """
    init_from = _initial_version(session, model, request.init_from)
    base = session.get_one(Version, (model.name, init_from)) if init_from is not None else None
    if given is None:
        keeps = base is not None and request.preprocessing == "keep"
        given = load_preprocessing(store, base.preprocessing) if base and keeps else Preprocessing()
    train_split = request.trainer.train_split
    job = plan_job(session, store, encoders, specs, request.datasets, limits, given, train_split)
    if not any(ref.split == train_split for ref in job.splits):
        raise Invalid.at("/datasets", f"none of the datasets has the train split '{train_split}' with labels")
    weights, modules = find_start(session, model, job.tasks, base, request.init_modules)
    frozen = [name for ref in weights for name in ref.modules] if request.train == "new" else []
    seed = request.trainer.seed
    seed = secrets.randbelow(2**31) if seed is None else seed
    planned = PlannedTraining(
        job.model_copy(update={"seed": seed, "init_from": init_from, "weights": weights, "frozen": frozen}),
        modules,
    )
    planned.check(request.trainer)
    return planned


def enqueue_scoring(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    model: Model,
    version: Version,
    request: ScoreIn,
    limits: Limits,
    client: str,
) -> Run:
    """Accept a scoring of a version on datasets.

    Raises:
        Invalid: If a dataset is unknown, or does not suit the version's tasks.
    """
    specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
    given = load_preprocessing(store, version.preprocessing)
    job = plan_job(
        session, store, encoders, specs, request.datasets, limits, given, remap_labels=request.remap_labels
    )
    asked = request.model_dump(mode="json")
    return enqueue_with(session, "score", version, asked, job, client=client)


def check_queue(session: Session, client: str, most: int) -> None:
    """Refuse a further run of a client that has many waiting.

    Raises:
        QueueFull: If ``most`` wait, trials of searches not counted.
    """
    waiting = select(func.count()).where(Run.client == client, Run.status == "queued", Run.parent.is_(None))
    if (n := session.scalars(waiting).one()) >= most:
        raise QueueFull(
            f"{n:,} of your runs wait already, and no more than {most:,} may: try again when some are over"
        )


def get(session: Session, run_id: str, *, lock: bool = False) -> Run:
    """Return a run.

    Raises:
        NotFound: If there is none of that id.
    """
    run = session.get(Run, run_id, with_for_update=lock or None)
    if run is None:
        raise missing("run", run_id)
    return run


def cancel(session: Session, run: Run) -> None:
    """Cancel a run: at once while it waits, else as soon as its worker hears of it.

    Raises:
        Conflict: If it is over.
    """
    if run.status in OVER:
        raise Conflict(f"run '{run.id}' is over: it {_past(run.status)}")
    stop(session, run)


def resume(session: Session, run: Run, limits: RunLimits | None = None) -> None:
    """Queue a run again that failed or was cancelled; it goes on from its last snapshot.

    Args:
        session: The transaction.
        run: The run.
        limits: What it may take from now on; default: as before.

    Raises:
        Conflict: If it is not over, or succeeded, is a trial, which its search alone starts again, has used up its
            limits, or was made by a release whose data is gone.
    """
    if run.parent:
        raise Conflict(f"run '{run.id}' is a trial of the search '{run.parent}': resume that instead")
    if run.status not in ("failed", "cancelled"):
        raise Conflict(f"run '{run.id}' is {run.status}: only a failed or cancelled run can be resumed")
    if not run.job["preprocessing"]:
        raise Conflict(
            f"run '{run.id}' was made by a release whose datasets are gone: register them again, and start a new run"
        )
    if limits is not None:
        run.request = run.request | {"limits": limits.model_dump(mode="json")}
    if reached := Allowance.of(run).reached(step=kept(run).step):
        raise Conflict(f"run '{run.id}' is {reached}: give it higher limits to go on")
    reopen(session, run)


def reopen(session: Session, run: Run) -> None:
    """Have a run that is over go on where it stood."""
    run.crashes = 0
    run.error = run.progress = run.finished_at = None
    requeue(session, run)


def finish_training(
    session: Session,
    claim: Claim,
    job: Job,
    weights: StoredTensors,
    scores: Sequence[Score],
    verdict: SharingVerdict | None = None,
) -> int:
    """End a training: its version, scores, verdict on sharing and status appear together.

    Returns:
        The version's number.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    number = add_version(session, run, job, weights, scores)
    if verdict is not None:
        run.verdict = verdict.to_json()
        add_scores(session, run, verdict_scores(verdict))
    run.snapshots = None
    end(session, run, "succeeded")
    return number


def add_version(session: Session, run: Run, job: Job, weights: StoredTensors, scores: Iterable[Score]) -> int:
    """Make a version, with its scores, of what a run trained.

    Returns:
        Its number.

    Raises:
        NotFound: If the model was removed meanwhile.
    """
    model = session.get(Model, run.model, with_for_update=True)
    if model is None:
        raise NotFound(f"model '{run.model}' is gone")
    number = (models.latest_version(session, model) or 0) + 1
    session.add(
        Version(
            model=model.name,
            number=number,
            run=run.id,
            tasks=[spec.model_dump(mode="json") for spec in job.tasks],
            fields={name: ref.model_dump() for name, ref in job.fields.items()},
            preprocessing=job.preprocessing,
            parameters=weights.numbers,
            sha256=weights.sha256,
            bytes=weights.bytes,
        )
    )
    session.flush()
    run.model_version = number
    add_scores(session, run, scores)
    return number


def keep_log(session: Session, claim: Claim, log: str) -> None:
    """Keep the artifact of a run's log with the run.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    lease.held(session, claim).log = log


def finish_scoring(session: Session, claim: Claim, scores: Sequence[Score]) -> None:
    """End a scoring: its scores and status appear together.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    add_scores(session, run, scores)
    end(session, run, "succeeded")


def job_of(run: Run) -> Job:
    """Return what a run is to do."""
    return Job.model_validate(run.job)


def metric_series(logged: Iterable[RunEvent]) -> dict[str, list[MetricPoint]]:
    """Arrange logged metrics by key."""
    series: dict[str, list[MetricPoint]] = {}
    for event in logged:
        at = {name: event.data[name] for name in ("attempt", "epoch", "step")}
        for key, value in event.data["metrics"].items():
            reason = None if value is not None else "undefined or not finite"
            series.setdefault(key, []).append(MetricPoint(**at, value=value, reason=reason))
    return series


def finite_or_none(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can carry them."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def enqueue(
    session: Session,
    kind: RunKind,
    model: str,
    request: dict[str, Any],
    job: Job,
    *,
    client: str,
    priority: int,
    parent: str | None = None,
    result: dict[str, Any] | None = None,
) -> Run:
    """Queue a run.

    Args:
        session: The transaction.
        kind: What it is.
        model: The model's name.
        request: What was asked for.
        job: What it comes to.
        client: Who asked.
        priority: How urgently.
        parent: The search that it is a trial of.
        result: What is known of it from the start.
    """
    run = Run(
        id=f"run_{ULID()}",
        parent=parent,
        model=model,
        kind=kind,
        status="queued",
        request=request,
        job=job.model_dump(mode="json"),
        result=result,
        client=client,
        priority=priority,
        attempt=0,
        created_at=database_now(session),
    )
    session.add(run)
    session.flush()
    events.append(session, run.id, [status_event(run)])
    return run


def enqueue_with(
    session: Session, kind: RunKind, version: Version, request: dict[str, Any], job: Job, *, client: str
) -> Run:
    """Queue a run that works with a version, and makes no other."""
    priority: int = request["priority"]
    run = enqueue(session, kind, version.model, request, job, client=client, priority=priority)
    run.model_version = version.number
    return run


def _initial_version(session: Session, model: Model, wanted: str | int | None) -> int | None:
    if wanted is None:
        return None
    if wanted == models.LATEST:
        return models.latest_version(session, model)
    try:
        return models.find_version(session, model, wanted).number
    except NotFound as error:
        raise Invalid.at("/init_from", error.detail) from None


def _past(status: str) -> str:
    return {"cancelled": "was cancelled"}.get(status, status)
