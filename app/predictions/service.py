"""A prediction: what is asked → the version that it is asked of → fields → forward along the tasks' paths → arrays."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from app.predictions.answering import predictions_of
from app.predictions.current import CurrentVersions, Served
from app.predictions.logged import answered
from app.predictions.question import Question
from app.predictions.rows import Rows

_LARGE = 2**20
"""Bodies of more bytes are read in a thread, so that other requests are answered meanwhile."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was answered.

    Attributes:
        model: The model's name.
        version: Number of the version.
        by_task: For each task, arrays ``[n, …]`` by name.
    """

    model: str
    version: int
    by_task: dict[str, dict[str, Any]]


async def predict(
    current: CurrentVersions,
    model: str,
    question: Question,
    rows: Rows,
    n_bytes: int,
    request_id: str,
    deadline: float | None = None,
) -> Prediction:
    """Predict rows for several tasks in one forward pass.

    Args:
        current: The versions that this process serves.
        model: The model's name.
        question: What is asked.
        rows: Of what.
        n_bytes: How large the body was that they came in.
        request_id: The request's id.
        deadline: When, by the event loop's clock, the client no longer waits; default: it does not say.

    Raises:
        NotFound: If there is no such model, version or task.
        Invalid: If a field or column is missing, unknown, or not of the form that the version was trained on.
        Overloaded: If too many requests wait already.
        DeadlineExceeded: If the deadline passes first.
        OperationError: If a module refuses its inputs' values.
    """
    served = await served_by(current, model, question.version)
    return await predict_with(served, question, rows, n_bytes, request_id, deadline)


async def served_by(current: CurrentVersions, model: str, wanted: str | int) -> Served:
    """Return the version that a number or an alias of a model stands for, from memory or loaded now.

    Raises:
        NotFound: If there is no such model or version.
    """
    return current.get(model, wanted) or await current.find(model, wanted)


async def predict_with(
    served: Served,
    question: Question,
    rows: Rows,
    n_bytes: int,
    request_id: str,
    deadline: float | None = None,
) -> Prediction:
    """Predict with a version that is loaded, and have it logged where that is wanted; see :func:`predict`."""
    log_share = served.batcher.serving.log_share
    started = time.perf_counter() if log_share else 0.0
    route = served.loaded.route(question)
    if n_bytes <= _LARGE:
        fields = rows.fields(served.loaded, route)
    else:
        fields = await asyncio.to_thread(rows.fields, served.loaded, route)
    part = await served.batcher.answer(route, fields, deadline)
    by_task = predictions_of(route, part)
    if log_share and random.random() < log_share:
        seconds = time.perf_counter() - started
        served.log.take(answered(served.loaded, route, rows, fields, by_task, n_bytes, request_id, seconds))
    return Prediction(served.loaded.model, served.loaded.number, by_task)
