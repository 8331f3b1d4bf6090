"""What the rows of a search and of its trials keep between two looks at them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from app.db.tables import Run
from app.runs.job import Job
from app.runs.schemas import TrainIn
from app.searches.space import Point

_PRUNED = "urn:taskloom:problem:run-pruned"

End = Literal["succeeded", "pruned", "failed", "cancelled"]


class SearchJob(Job):
    """What a search is to do: the training that its trials start from, all of it pinned, and what makes others."""

    train: TrainIn
    """As the client asked for it, less whatever could mean something else later."""
    modules: list[str]
    """Names of the model's modules."""
    architecture: dict[str, Any] | None
    """What the model was made from, for sizes that are searched over."""
    outlines: list[dict[str, Any]]
    """The model's own tasks, as the client gave them."""

    @property
    def base(self) -> Job:
        """The job of a trial whose tasks are the model's own."""
        return Job(**{name: getattr(self, name) for name in Job.model_fields})


class Best(BaseModel):
    """The best trial so far."""

    run: str
    number: int
    value: float


class SearchState(BaseModel):
    """How far a search has come."""

    open: list[str] = []
    """Runs of trials of which nobody knows yet how they end."""
    asked: int = 0
    """Trials that were proposed."""
    succeeded: int = 0
    pruned: int = 0
    failed: int = 0
    cancelled: int = 0
    best: Best | None = None
    spent_s: float = 0.0
    """Seconds that it took until it was last stopped."""
    since: str | None = None
    """When it was started or resumed; null while it is not under way."""

    @property
    def over(self) -> int:
        """Trials that are over."""
        return self.succeeded + self.pruned + self.failed + self.cancelled


class Outcome(BaseModel):
    """How a trial ended."""

    state: End
    value: float | None = None
    """Of the objective: what the trial ended with, or had when it was pruned; null where it has none."""
    epoch: int | None = None
    """Epochs after which it was pruned, or would have been, had it not been faster."""
    values: dict[int, float] = {}
    """Of the objective, by epochs, up to there."""


class TrialState(BaseModel):
    """A trial's place in its search."""

    number: int
    point: Point
    unfit: bool = False
    """Whether its parameters made no training, so that there is nothing to try again."""
    outcome: Outcome | None = None
    """null as long as the search does not know how it ended."""


def state_of(run: Run) -> SearchState:
    """Return how far a search has come."""
    return SearchState.model_validate(run.result or {})


def trial_of(result: dict[str, Any] | None) -> TrialState:
    """Return what a trial's row keeps of it."""
    return TrialState.model_validate(result)


def pruned_error(reason: str) -> dict[str, Any]:
    """Return what the row of a run says that was stopped because others are better."""
    return {"type": _PRUNED, "title": "Run pruned", "detail": reason}


def is_pruned(error: dict[str, Any] | None) -> bool:
    """Say whether a run was stopped because others are better."""
    return error is not None and error.get("type") == _PRUNED
