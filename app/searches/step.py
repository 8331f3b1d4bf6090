"""A search's next step: trials that ended are taken down, bad ones stopped, new ones proposed, the best made a version.

No process holds a search. A step is one transaction that holds the search's row, so of several workers one does it, and
whatever dies in between leaves the search where its rows say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.db.session import database_now
from app.db.tables import Run
from app.problems import Invalid
from app.runs import events, service
from app.runs.events import Event
from app.runs.transitions import End, end, status_event, stop
from app.runs.trials import TRAINED, promote, trained_of
from app.searches.planning import Surroundings, plan_trial
from app.searches.schemas import Budget, SearchIn
from app.searches.series import Series, value_of
from app.searches.space import Point, params_of
from app.searches.state import (
    Best,
    Outcome,
    SearchJob,
    SearchState,
    TrialState,
    is_pruned,
    pruned_error,
    state_of,
    trial_of,
)
from app.searches.study import Study, Tried
from mtl_core.errors import TaskloomError
from mtl_core.training.watched_metrics import WatchedMetric

_HOPELESS = 5
_MOST_RUNS = 10_000


@dataclass
class Memory:
    """What need not be read again at the next step; whoever has none reads it.

    Attributes:
        series: Values of trials that train, by their runs.
        judged_by: Which trials were over when the study was made that trials are judged by, and the study.
    """

    series: dict[str, Series] = field(default_factory=dict[str, Series])
    judged_by: tuple[tuple[int, int], Study] | None = None


def advance(around: Surroundings, run_id: str, memory: Memory) -> bool:
    """Do what is next for a search.

    Args:
        around: What trials are planned with.
        run_id: The search.
        memory: Of the search's earlier steps.

    Returns:
        False where another worker has the search just now.
    """
    run = around.session.scalars(
        select(Run).where(Run.id == run_id).with_for_update(skip_locked=True)
    ).first()
    if run is None:
        return False
    if run.finished_at is None:
        _Step(around, run, memory).do()
    return True


def give_up(session: Session, run_id: str, reason: str) -> None:
    """Fail a search that cannot go on, and stop its trials."""
    run = service.get(session, run_id, lock=True)
    if run.finished_at is None:
        for trial in open_trials(session, state_of(run)):
            _stop(session, trial)
        end(session, run, "failed", reason)


def open_trials(session: Session, state: SearchState) -> list[Run]:
    """Return the trials of which the search does not know yet how they end."""
    wanted = select(Run).where(Run.id.in_(state.open)).order_by(Run.id)
    return list(session.scalars(wanted.options(defer(Run.job))))


def is_out_of_time(budget: Budget, state: SearchState, now: datetime) -> bool:
    """Say whether a search's minutes are over."""
    return budget.minutes is not None and _elapsed(state, now) > budget.minutes * 60


class _Step:
    """One step of a search whose row is held."""

    def __init__(self, around: Surroundings, run: Run, memory: Memory) -> None:
        self.around = around
        self.session = around.session
        self.run = run
        self.memory = memory
        self.now = database_now(self.session)
        self.request = SearchIn.model_validate(run.request)
        self.objective = WatchedMetric.parse(self.request.objective)
        self.state = state_of(run)
        self.open = open_trials(self.session, self.state)
        self.ending: tuple[End, str | None] | None = None

    def do(self) -> None:
        """Do what is next."""
        if self.run.status == "queued":
            self._begin()
        self._note_ended()
        if self.run.status == "cancelling":
            for trial in self.open:
                _stop(self.session, trial)
            if all(trial.status in service.OVER for trial in self.open):
                self.ending = ("cancelled", None)
        elif self._is_hopeless():
            self._stop_open("no trial of the search ended well")
            if not self.open:
                failed = self.state.failed
                self.ending = (
                    "failed",
                    f"its first {failed} trials failed, the last one because {self._last_failure()}",
                )
        elif is_out_of_time(self.request.budget, self.state, self.now):
            self._stop_open(f"the search's time is over: {self.request.budget.minutes:g} minutes")
            self._finish()
        else:
            self._prune()
            self._propose()
            self._finish()
        self._keep()

    def _begin(self) -> None:
        """Start, or go on where the search was stopped: what was stopped with it begins again."""
        self.run.status = "running"
        self.run.attempt += 1
        self.run.started_at = self.run.started_at or self.now
        self.state.since = self.now.isoformat()
        events.append(self.session, self.run.id, [status_event(self.run)])
        if self._is_hopeless():
            self._open_failed()
        for trial in self.open:
            if trial.status in ("failed", "cancelled") and not is_pruned(trial.error):
                service.reopen(self.session, trial)

    def _open_failed(self) -> None:
        """Have those trials tried again whose failures ended the search."""
        failed = select(Run).where(Run.parent == self.run.id, Run.status == "failed").options(defer(Run.job))
        for trial in self.session.scalars(failed):
            kept = trial_of(trial.result)
            if not kept.unfit:
                trial.result = kept.model_copy(update={"outcome": None}).model_dump(mode="json")
                self.state.failed -= 1
                self.state.open.append(trial.id)
                self.open.append(trial)

    def _note_ended(self) -> None:
        """Take down how trials ended; those that are stopped with the search have not ended."""
        for trial in list(self.open):
            stopped = trial.status == "cancelled" and not is_pruned(trial.error)
            if trial.status in service.OVER and not (stopped and self.run.status == "cancelling"):
                self._note(trial, self._outcome(trial))
                self.open.remove(trial)
                self.state.open.remove(trial.id)
                self.memory.series.pop(trial.id, None)

    def _outcome(self, trial: Run) -> Outcome:
        values = self._series(trial).values
        # What the pruner says is noted even of a trial that was over first: proposals do not hang on who was faster.
        epoch = self._rejected_at(trial, values)
        values = {at: value for at, value in values.items() if epoch is None or at <= epoch}
        trained = trained_of(trial)
        value = value_of(self.objective, trained.metrics) if trained else None
        if value is not None:
            return Outcome(state="succeeded", value=value, epoch=epoch, values=values)
        if is_pruned(trial.error):
            last = max(values, default=None)
            at = None if last is None else values[last]
            return Outcome(state="pruned", value=at, epoch=last, values=values)
        return Outcome(state="cancelled" if trial.status == "cancelled" else "failed", values=values)

    def _note(self, trial: Run, outcome: Outcome) -> None:
        """Keep how a trial ended; of all trials, only the best keeps what it trained."""
        kept = trial_of(trial.result).model_copy(update={"outcome": outcome})
        row: dict[str, Any] = kept.model_dump(mode="json")
        if outcome.state == "succeeded" and self._is_best(kept.number, outcome.value):
            assert outcome.value is not None
            if self.state.best is not None:
                before = service.get(self.session, self.state.best.run)
                before.result = trial_of(before.result).model_dump(mode="json")
            self.state.best = Best(run=trial.id, number=kept.number, value=outcome.value)
            row |= {TRAINED: (trial.result or {})[TRAINED]}
        trial.result = row
        if outcome.state in ("succeeded", "pruned"):
            trial.snapshots = None
        setattr(self.state, outcome.state, getattr(self.state, outcome.state) + 1)
        self._log(_told(kept.number, outcome, params_of(self.request.space, kept.point)))

    def _is_best(self, number: int, value: float | None) -> bool:
        best = self.state.best
        if best is None:
            return True
        return self.objective.better(value, best.value) or (value == best.value and number < best.number)

    def _prune(self) -> None:
        for trial in self.open:
            if trial.status == "running":
                series = self._series(trial)
                epoch = self._rejected_at(trial, series.values, series.judged)
                series.judged = max(series.values, default=-1)
                if epoch is not None:
                    value = series.values[epoch]
                    _stop(self.session, trial, f"{self.objective.name} was {value:.6g} after {epoch} epochs")

    def _propose(self) -> None:
        for _ in range(self.request.parallel):
            if len(self.open) >= self.request.parallel or self.state.asked >= self._planned():
                return
            self._start(self._study(with_open=True).propose())

    def _start(self, point: Point) -> None:
        """Queue the next trial, or take down that its parameters make no training."""
        job = SearchJob.model_validate(self.run.job)
        kept = TrialState(number=self.state.asked, point=point)
        params = params_of(self.request.space, point)
        unfit = None
        try:
            train, planned = plan_trial(self.around, self.run.model, job, params)
            child = planned.job
        except (Invalid, TaskloomError) as error:
            train, child, unfit = job.train, job.base, str(error)
        trial = service.enqueue(
            self.session,
            "train",
            self.run.model,
            train.model_dump(mode="json") | {"trial": {"number": kept.number, "params": params}},
            child,
            client=self.run.client,
            priority=self.run.priority,
            parent=self.run.id,
            result=kept.model_copy(update={"unfit": unfit is not None}).model_dump(mode="json"),
        )
        self.state.asked += 1
        if unfit is None:
            self.open.append(trial)
            self.state.open.append(trial.id)
        else:
            end(self.session, trial, "failed", unfit)
            self._note(trial, Outcome(state="failed"))

    def _finish(self) -> None:
        """Where the budget is used up and nothing trains any more, make the best trial a version."""
        is_used_up = self.state.asked >= self._planned() or is_out_of_time(
            self.request.budget, self.state, self.now
        )
        if self.open or not is_used_up:
            return
        if self.state.best is None:
            why = f"; the last that failed did because {self._last_failure()}" if self.state.failed else ""
            self.ending = ("failed", f"none of its trials ended with a value, of {self.state.asked}{why}")
            return
        best = service.get(self.session, self.state.best.run)
        trained = trained_of(best)
        assert trained is not None
        self.run.model_version = promote(self.session, best, trained)
        best.result = trial_of(best.result).model_dump(mode="json")
        self.ending = ("succeeded", None)

    def _keep(self) -> None:
        """Write down how far the search has come, and its end."""
        fraction = 1.0 if self.ending and self.ending[0] == "succeeded" else self._fraction()
        best = self.state.best.value if self.state.best else None
        progress = {
            "runs": self.state.over,
            "n_runs": self.request.budget.runs,
            "fraction": fraction,
            "best": best,
        }
        before = self.run.progress or {}
        self.run.progress = progress
        if (before.get("runs"), before.get("best")) != (progress["runs"], best):
            events.append(self.session, self.run.id, [Event("progress", progress)])
        if self.ending:
            self.state.spent_s = _elapsed(self.state, self.now)
            self.state.since = None
        self.run.result = self.state.model_dump(mode="json")
        if self.ending:
            status, reason = self.ending
            end(self.session, self.run, status, reason)

    def _stop_open(self, reason: str) -> None:
        for trial in self.open:
            _stop(self.session, trial, reason)

    def _is_hopeless(self) -> bool:
        return self.state.failed >= _HOPELESS and not self.state.succeeded + self.state.pruned

    def _planned(self) -> int:
        return self.request.budget.runs or _MOST_RUNS

    def _fraction(self) -> float:
        minutes = self.request.budget.minutes
        shares = [self.state.over / self._planned()]
        shares += [_elapsed(self.state, self.now) / 60 / minutes] if minutes else []
        return min(1.0, max(shares))

    def _series(self, trial: Run) -> Series:
        series = self.memory.series.setdefault(trial.id, Series(self.objective))
        series.read(self.session, trial.id)
        return series

    def _rejected_at(self, trial: Run, values: dict[int, float], after: int = -1) -> int | None:
        if self.request.pruner == "none" or not values or max(values) <= after:
            return None
        over = (self.run.attempt, self.state.over)
        if self.memory.judged_by is None or self.memory.judged_by[0] != over:
            self.memory.judged_by = (over, self._study(with_open=False))
        return self.memory.judged_by[1].rejects_at(trial_of(trial.result).point, values, after)

    def _study(self, *, with_open: bool) -> Study:
        rows = self.session.scalars(select(Run.result).where(Run.parent == self.run.id))
        trials = sorted((trial_of(row) for row in rows), key=lambda trial: trial.number)
        tried = [Tried(t.point, t.outcome) for t in trials if with_open or t.outcome is not None]
        return Study(self.request, tried)

    def _last_failure(self) -> str:
        failed = select(Run.error).where(Run.parent == self.run.id, Run.status == "failed")
        error = self.session.scalars(failed.order_by(Run.id.desc()).limit(1)).first()
        return error["detail"] if error else "its objective is undefined"

    def _log(self, message: str) -> None:
        events.append(self.session, self.run.id, [Event("log", {"message": message})])


def _stop(session: Session, trial: Run, reason: str | None = None) -> None:
    """Stop a trial that is not over; with a reason, as one that is pruned."""
    # Its worker may be writing just now.
    session.refresh(trial, ["status", "error", "attempt"], with_for_update=True)
    if trial.status in ("queued", "running"):
        if reason:
            trial.error = pruned_error(reason)
        stop(session, trial)


def _elapsed(state: SearchState, now: datetime) -> float:
    running = (now - datetime.fromisoformat(state.since)).total_seconds() if state.since else 0.0
    return state.spent_s + running


def _told(number: int, outcome: Outcome, params: dict[str, Any]) -> str:
    shown = ", ".join(
        f"{key} {value if not isinstance(value, float) else f'{value:.6g}'}" for key, value in params.items()
    )
    value = "" if outcome.value is None else f", {outcome.value:.6g}"
    return f"trial {number} {outcome.state}{value}: {shown}"
