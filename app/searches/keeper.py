"""Looks after searches: whenever there is news of one, its next step is done."""

from __future__ import annotations

from collections.abc import Hashable

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.db.session import DATABASE_AWAY, Database, database_now
from app.db.tables import Run
from app.logs import get_logger
from app.searches import step
from app.searches.planning import Surroundings
from app.searches.schemas import Budget
from app.searches.state import state_of
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core.building.tasks import Limits

log = get_logger(__name__)


class Keeper:
    """Brings all searches on; several may, each in its own process.

    Args:
        db: The database.
        store: Where artifacts are.
        encoders: Sentence encoders for columns of text.
        limits: What a spec may ask for.
    """

    def __init__(
        self, db: Database, store: ArtifactStore, encoders: SentenceEncoders, limits: Limits
    ) -> None:
        self._db = db
        self._store = store
        self._encoders = encoders
        self._limits = limits
        # Only to spare work: what was seen at the last look, and what was read of the trials.
        self._seen: dict[str, Hashable] = {}
        self._memories: dict[str, step.Memory] = {}

    def advance(self) -> bool:
        """Do the next step of every search of which there is news; say whether there was any."""
        with self._db.read() as session:
            seen = _glances(session)
        news = [run_id for run_id, glance in seen.items() if self._seen.get(run_id) != glance]
        for run_id in news:
            if not self._step(run_id):
                del seen[run_id]
        self._seen = seen
        self._memories = {run_id: self._memories.get(run_id, step.Memory()) for run_id in seen}
        return bool(news)

    def _step(self, run_id: str) -> bool:
        try:
            with self._db.write() as session:
                around = Surroundings(session, self._store, self._encoders, self._limits)
                return step.advance(around, run_id, self._memories.setdefault(run_id, step.Memory()))
        except DATABASE_AWAY:
            # What was judged in a step that is undone is to be judged again.
            self._memories.pop(run_id, None)
            raise
        except Exception as error:
            log.exception("search failed", run_id=run_id)
            with self._db.write() as session:
                step.give_up(session, run_id, f"{type(error).__name__}: {error}")
            return True


def _glances(session: Session) -> dict[str, Hashable]:
    """Return, for each search that is not over, what is different as soon as there is something to do."""
    now = database_now(session)
    under_way = select(Run).where(Run.kind == "search", Run.status.in_(("queued", "running", "cancelling")))
    glances: dict[str, Hashable] = {}
    for run in session.scalars(under_way.options(defer(Run.job))):
        state = state_of(run)
        trials = session.execute(
            select(Run.id, Run.status, Run.events).where(Run.id.in_(state.open)).order_by(Run.id)
        )
        is_late = step.is_out_of_time(Budget.model_validate(run.request["budget"]), state, now)
        glances[run.id] = (run.status, state.asked, is_late, tuple(map(tuple, trials)))
    return glances
