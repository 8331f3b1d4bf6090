"""Which snapshots of a run's trainings are kept: artifacts that the run's row refers to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.runs import lease
from app.runs.lease import Claim

_KEPT = 2


class Kept(BaseModel):
    """The snapshots of a run.

    A run is one training, or several: of the shared model, and of each task alone.
    """

    step: int = 0
    """The step of all trainings together that the newest was saved after."""
    artifacts: dict[str, list[str]] = {}
    """Those of each training, the newest first."""

    @property
    def names(self) -> list[str]:
        """All artifacts."""
        return [name for of_training in self.artifacts.values() for name in of_training]


def kept(run: Run) -> Kept:
    """Return what is kept of a run."""
    return Kept.model_validate(run.snapshots or {})


def without(run: Run, gone: Collection[str]) -> dict[str, Any] | None:
    """Return what a run's row says without some artifacts; None where nothing is left."""
    before = kept(run)
    artifacts = {
        training: left
        for training, names in before.artifacts.items()
        if (left := [name for name in names if name not in gone])
    }
    return Kept(step=before.step, artifacts=artifacts).model_dump() if artifacts else None


def keep(session: Session, claim: Claim, training: str, artifact: str, step: int) -> list[str]:
    """Keep a snapshot of a training as its newest.

    A run that has got further than before has not broken down in vain.

    Returns:
        The artifacts that it takes the place of.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    before = kept(run)
    if step > before.step:
        run.crashes = 0
    mine = [artifact, *before.artifacts.get(training, [])]
    artifacts = before.artifacts | {training: mine[:_KEPT]}
    run.snapshots = Kept(step=max(step, before.step), artifacts=artifacts).model_dump()
    return mine[_KEPT:]
