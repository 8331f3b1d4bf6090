"""Predictions on their way into the request log: taken in without waiting, written in batches by a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError

from app.db.session import DATABASE_AWAY, Database
from app.logs import get_logger
from app.request_log import service

log = get_logger(__name__)

MOST_ROWS = 100
"""Rows of a request that are logged; of more, the first."""

MOST_BYTES = 65_536
"""Size of the JSON of a request's inputs and answers; as many rows as have more are left out."""

_MOST_WAITING = 4096
_MOST_BYTES_WAITING = 64 * 2**20
_BATCH = 256
_GATHER_SECONDS = 0.5
"""How long what is to be written waits for more: each batch is a transaction."""

_AWAY_SECONDS = 1.0
_CLOSE_SECONDS = 5.0

_LOGGED = Counter("taskloom_logged_requests_total", "Predictions written to the request log.", ["model"])
_UNLOGGED = Counter(
    "taskloom_unlogged_requests_total",
    "Predictions that were to be logged and could not be: too many waited, or they could not be written.",
    ["model"],
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A prediction that is to be logged.

    Attributes:
        model: The model's name.
        version: Number of the version.
        tasks: The tasks' names.
        request_id: The request's id.
        seconds: What it took.
        rows: How many rows it had.
        kept: How many of them ``content`` has.
        bytes: About how much memory they take.
        content: Returns inputs and answers of the first so many rows.
    """

    model: str
    version: int
    tasks: tuple[str, ...]
    request_id: str
    seconds: float
    rows: int
    kept: int
    bytes: int
    content: Callable[[int], tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    nanoseconds: int
    answered: Answered


class RequestLog:
    """Takes predictions in and has them written; what there is no room for is dropped, and counted.

    While the database is away, what was taken in waits for it. The thread that writes is started with the first
    prediction.

    Args:
        db: The database.
        most_waiting: Predictions that may wait to be written; default 4096.
    """

    def __init__(self, db: Database, most_waiting: int = _MOST_WAITING) -> None:
        self._db = db
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        # How many were ever taken in, and how many of these are written or given up.
        self._taken = self._settled = 0
        self._hurry_to = 0
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def take(self, answered: Answered) -> None:
        """Take a prediction in, or drop it; never waits for the database."""
        one = _Waiting(time.time_ns(), answered)
        with self._changed:
            is_full = (
                len(self._waiting) >= self._most_waiting or self._bytes + answered.bytes > _MOST_BYTES_WAITING
            )
            if is_full or self._is_closing:
                _UNLOGGED.labels(answered.model).inc()
                return
            self._waiting.append(one)
            self._bytes += answered.bytes
            self._taken += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, daemon=True, name="request-log")
                self._thread.start()
            elif len(self._waiting) in (1, _BATCH):
                self._changed.notify_all()

    def flush(self, seconds: float = _CLOSE_SECONDS) -> bool:
        """Wait until everything is written that was taken in before; say whether it is.

        Args:
            seconds: How long to wait; default 5.
        """
        with self._changed:
            self._hurry_to = wanted = self._taken
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= wanted, seconds)

    def close(self) -> None:
        """Write what waits, unless the database is away, and take nothing in any more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        if self._waiting:
            log.warning("requests are not logged any more", requests=len(self._waiting))

    def _write_on(self) -> None:
        """Write what is taken in until the log is closed."""
        while batch := self._next():
            rows = [_row(one) for one in batch]
            written = self._write(rows)
            for row in rows:
                (_LOGGED if row["id"] in written else _UNLOGGED).labels(row["model"]).inc()
            with self._changed:
                for _ in batch:
                    self._bytes -= self._waiting.popleft().answered.bytes
                self._settled += len(batch)
                self._changed.notify_all()

    def _next(self) -> list[_Waiting]:
        """Return what is to be written next, which waits on meanwhile; nothing when the log is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            self._changed.wait_for(
                lambda: self._is_closing or self._hurry_to > self._settled or len(self._waiting) >= _BATCH,
                _GATHER_SECONDS,
            )
            return [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]

    def _write(self, rows: list[dict[str, Any]]) -> set[str]:
        """Write rows, trying again while the database is away, and return the ids of those that are there."""
        while True:
            try:
                with self._db.write() as session:
                    written = service.add(session, rows)
            except DATABASE_AWAY as error:
                log.warning("database unavailable: requests wait to be logged", error=str(error))
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closing, _AWAY_SECONDS):
                        return set()
            except SQLAlchemyError:
                log.exception("requests could not be logged", requests=len(rows))
                return set()
            else:
                return written


def _row(one: _Waiting) -> dict[str, Any]:
    answered = one.answered
    kept, (inputs, answers) = _within_bounds(answered)
    return {
        "id": service.new_id(one.nanoseconds),
        "model": answered.model,
        "version": answered.version,
        "tasks": list(answered.tasks),
        "request_id": answered.request_id,
        "created_at": datetime.fromtimestamp(one.nanoseconds / 1e9, UTC),
        "seconds": answered.seconds,
        "rows": answered.rows,
        "logged_rows": kept,
        "inputs": inputs,
        "answers": answers,
    }


def _within_bounds(answered: Answered) -> tuple[int, tuple[dict[str, Any], dict[str, Any]]]:
    """Return as many of a prediction's first rows as are not too large as JSON, and how many they are."""
    kept = answered.kept
    while True:
        try:
            # What came as no finite number becomes null, which databases take; what JSON has no form for, a text.
            content = orjson.dumps(answered.content(kept), default=str, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError:
            # It is nested deeper than orjson writes: where a model reads nothing, a record may hold anything.
            return 0, ({}, {})
        if len(content) <= MOST_BYTES:
            inputs, answers = orjson.loads(content)
            return kept, (inputs, answers)
        if not kept:
            # The names alone are too long.
            return 0, ({}, {})
        kept = min(kept - 1, kept * MOST_BYTES // len(content))
