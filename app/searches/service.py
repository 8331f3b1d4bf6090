"""The rules for searches: checked to the last bound before they begin, and told trial by trial."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Model, Run
from app.models import service as models
from app.problems import Invalid, NotFound
from app.runs import service as runs
from app.runs.trials import trained_of
from app.searches.planning import Surroundings, pin, plan_trial
from app.searches.schemas import SearchedTrial, SearchIn, SearchOut
from app.searches.space import check_keys, probes
from app.searches.state import SearchJob, state_of, trial_of
from mtl_core.errors import Fault, TaskloomError, pointer_to
from mtl_core.training.watched_metrics import WatchedMetric

KIND = "search"


def enqueue_search(around: Surroundings, model: Model, request: SearchIn, client: str) -> Run:
    """Accept a search.

    Raises:
        Invalid: If the training that it starts from could not be started, the objective is not logged for the
            validation split, or the space holds what is no setting or argument, or a bound or choice that is not
            allowed.
    """
    if request.train.verdict:
        detail = "a search gives no verdict on sharing: train the best settings once more, with a verdict"
        raise Invalid.at("/train/verdict", detail)
    check_keys(request.space, model)
    specs = models.specs_of(model)
    try:
        planned = runs.plan_training(
            around.session, around.store, around.encoders, model, specs, request.train, around.limits
        )
    except Invalid as error:
        raise _under("/train", error) from None
    job = pin(model, request.train, planned, request.seed)
    _check_objective(request.objective, job)
    faults = list(_space_faults(around, model.name, job, request))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    asked = request.model_dump(mode="json")
    return runs.enqueue(
        around.session,
        KIND,
        model.name,
        asked,
        job,
        client=client,
        priority=request.train.priority,
    )


def get(session: Session, run_id: str) -> Run:
    """Return a search.

    Raises:
        NotFound: If there is no run of that id, or it is no search.
    """
    run = runs.get(session, run_id)
    if run.kind != KIND:
        raise NotFound(f"run '{run_id}' is no search")
    return run


def trials_of(session: Session, run: Run) -> SearchOut:
    """Return what a search has tried and found."""
    rows = session.execute(
        select(Run.id, Run.status, Run.request["trial"]["params"], Run.result).where(Run.parent == run.id)
    )
    trials: list[SearchedTrial] = []
    for run_id, status, params, result in rows:
        kept = trial_of(result)
        end = kept.outcome
        trial = {
            "number": kept.number,
            "run": run_id,
            "status": end.state if end else status,
            "params": params,
            "value": end.value if end else None,
            "epoch": end.epoch if end else None,
        }
        trials.append(SearchedTrial.model_validate(trial))
    trials.sort(key=lambda trial: trial.number)
    best = state_of(run).best
    return SearchOut(
        run=run.id,
        objective=run.request["objective"],
        best=trials[best.number] if best else None,
        trials=trials,
    )


def kept_artifacts(session: Session) -> set[str]:
    """Return the artifacts that searches need which may still make a version, if only once they are resumed."""
    kept: set[str] = set()
    searches = select(Run).where(Run.kind == KIND, Run.status != "succeeded")
    for run in session.scalars(searches):
        kept.update(runs.job_of(run).artifacts)
        state = state_of(run)
        trials = [*state.open, *([state.best.run] if state.best else [])]
        for trial in session.scalars(select(Run).where(Run.id.in_(trials))):
            kept.update(runs.job_of(trial).artifacts)
            trained = trained_of(trial)
            kept.update([trained.weights.sha256] if trained else [])
    return kept


def _check_objective(objective: str, job: SearchJob) -> None:
    trainer = job.train.trainer
    logged = job.logged_keys(trainer.train_split, trainer.valid_split)
    judged = [key for key in logged if key.split("/")[2] == trainer.valid_split]
    try:
        WatchedMetric.parse(objective).matches(judged)
    except TaskloomError as error:
        detail = f"of the validation split '{trainer.valid_split}', {error}"
        raise Invalid.at("/objective", detail) from None


def _space_faults(around: Surroundings, model: str, job: SearchJob, request: SearchIn) -> Iterator[Fault]:
    for key, dimension in request.space.items():
        bounds_are_fine = True
        for where, value in probes(dimension):
            if not where and not bounds_are_fine:
                break
            try:
                plan_trial(around, model, job, {key: value})
            except Invalid as error:
                detail = error.errors[0]["detail"] if error.errors else error.detail
            except TaskloomError as error:
                detail = str(error)
            else:
                continue
            bounds_are_fine = False
            yield Fault(pointer_to("space", key, *where), detail)


def _under(prefix: str, error: Invalid) -> Invalid:
    faults = [Fault(prefix + fault["pointer"], fault["detail"]) for fault in error.errors]
    return Invalid(error.detail, faults)
