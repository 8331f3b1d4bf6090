"""A worker's chores, which are neither claiming nor training: it brings searches on, and tidies up."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from multiprocessing.connection import Connection

from app.db.session import DATABASE_AWAY, Database
from app.logs import configure_logs, get_logger
from app.searches.keeper import Keeper
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from app.upkeep import housekeeping

log = get_logger(__name__)

_HOUSEKEEPING_SECONDS = 600.0
_AWAY_SECONDS = 1.0


def do_chores(settings: Settings, supervisor: Connection) -> None:
    """Bring searches on and tidy up until the supervisor is gone; the entry point of the caretaker's process.

    Args:
        settings: The worker's settings.
        supervisor: Tells when to look without delay, and is told when there may be runs to claim; the first word says
            that everything is imported. It is at its end when the supervisor is gone.
    """
    configure_logs(settings)
    # Ctrl-C reaches every process of the terminal; the supervisor decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    db = Database(settings.resolved_database_url)
    store = ArtifactStore(settings.artifacts_dir)
    searches = Keeper(db, store, SentenceEncoders(settings.sentence_encoders), settings.limits)
    lives = housekeeping.Lives(
        snapshots=timedelta(days=settings.snapshot_days),
        results=timedelta(days=settings.result_days),
        requests=timedelta(days=settings.request_log_days),
    )
    housekept: float | None = None
    # The first word says that everything is imported.
    is_wanted = _exchange(supervisor, has_news=True, seconds=0.0)
    while is_wanted:
        has_news, pause = False, settings.poll_seconds
        try:
            has_news = searches.advance()
            if housekept is None or time.monotonic() - housekept > _HOUSEKEEPING_SECONDS:
                housekeeping.clean(db, store, lives)
                housekept = time.monotonic()
        except DATABASE_AWAY as error:
            log.warning("database unavailable", error=str(error))
            pause = max(pause, _AWAY_SECONDS)
        is_wanted = _exchange(supervisor, has_news, pause)
    db.dispose()


def _exchange(supervisor: Connection, has_news: bool, seconds: float) -> bool:
    """Tell the supervisor what is new, and wait some time for its own news; say whether it is still there."""
    try:
        if has_news:
            supervisor.send_bytes(b"!")
        if supervisor.poll(seconds):
            supervisor.recv_bytes()
    except (EOFError, OSError):
        return False
    return True
