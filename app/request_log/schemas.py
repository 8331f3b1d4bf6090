"""Logged requests as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.wire import Out, shown_as

_REQUEST: dict[str, Any] = {
    "id": "log_18870f3a5c4e2a009f3b21c7",
    "model": "shapes",
    "version": 1,
    "tasks": ["circle_task"],
    "request_id": "req_019b7e2f3c1a5b1f0c9d2e7a4b60",
    "created_at": "2026-01-02T03:04:05Z",
    "seconds": 0.0004,
    "rows": 2,
    "logged_rows": 2,
    "inputs": {"inputs": {"circle_data": [[0.1, 0.2], [0.9, 0.9]]}},
    "answers": {"circle_task": {"preds": [1, 0], "probs": [[0.08, 0.92], [0.97, 0.03]]}},
}


class LoggedRequestOut(Out, json_schema_extra=shown_as(_REQUEST)):
    """A prediction that was logged."""

    id: str
    """Sorts by time."""
    model: str
    version: int
    tasks: list[str]
    request_id: str
    """As in the header `X-Request-ID` of its answer, and in the server's log."""
    created_at: datetime
    """When it was answered, by the server's clock."""
    seconds: float
    """From its rows, as they were read, to their answers."""
    rows: int
    """How many it had."""
    logged_rows: int
    """How many of them, the first, stand in `inputs` and `answers`."""
    inputs: dict[str, Any]
    """As in the body of a prediction: raw `records` or `columns` where they came as such, else `inputs`, by field."""
    answers: dict[str, Any]
    """By task, what was answered for each row; null stands for what is no finite number."""
