"""What a trial of a search ends with: no version yet, but all that one is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.runs import lease
from app.runs.lease import Claim
from app.runs.service import add_version, finite_or_none, job_of
from app.runs.transitions import end
from app.storage.artifacts import StoredTensors
from mtl_core.scoring.scorer import Score

TRAINED = "trained"


class Trained(BaseModel):
    """What a trial trained, as its run's row keeps it."""

    weights: StoredTensors
    scores: list[dict[str, Any]]
    """Of its weights on every split; the value of an undefined one is null."""
    metrics: dict[str, float | None]
    """Scores and losses of its weights on the validation split, by the keys under which they are logged."""


def trained_of(run: Run) -> Trained | None:
    """Return what a trial trained; None where it did not end well, or was not the best."""
    kept = (run.result or {}).get(TRAINED)
    return Trained.model_validate(kept) if kept else None


def finish_trial(
    session: Session,
    claim: Claim,
    weights: StoredTensors,
    scores: Sequence[Score],
    metrics: Mapping[str, float],
) -> None:
    """End a training that is a trial of a search, which decides whether it becomes a version.

    Args:
        session: The transaction.
        claim: The worker's hold on it.
        weights: What it ended with.
        scores: Of these weights on every split.
        metrics: Scores and losses of these weights on the validation split.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    rows = [
        asdict(score) | {"value": score.value if math.isfinite(score.value) else None} for score in scores
    ]
    trained = Trained(weights=weights, scores=rows, metrics=finite_or_none(dict(metrics)))
    run.result = (run.result or {}) | {TRAINED: trained.model_dump(mode="json")}
    # It may have been told to stop when it was as good as over.
    run.error = run.snapshots = None
    end(session, run, "succeeded")


def promote(session: Session, run: Run, trained: Trained) -> int:
    """Make a version of what a trial trained, and return its number."""
    return add_version(session, run, job_of(run), trained.weights, map(_score, trained.scores))


def _score(row: dict[str, Any]) -> Score:
    value: Any = math.nan if row["value"] is None else row["value"]
    filled: dict[str, Any] = row | {"value": value}
    return Score(**filled)
