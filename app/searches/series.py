"""How the objective of a trial goes while it trains, as its run's events tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.runs import events
from mtl_core.errors import TaskloomError
from mtl_core.training.watched_metrics import WatchedMetric

_EVERY_EPOCH_TO = 100


class Series:
    """A trial's values of the objective, read as they come.

    Args:
        objective: What is searched for.
    """

    def __init__(self, objective: WatchedMetric) -> None:
        self.values: dict[int, float] = {}
        """By epochs finished: what the first evaluation after them found."""
        self.judged = -1
        """Up to how many epochs the values have been judged."""
        self._objective = objective
        self._read = 0
        self._step = -1

    def read(self, session: Session, run: str) -> None:
        """Take in what the run has logged since the last time."""
        while batch := events.after(session, run, self._read, "metrics"):
            for event in batch:
                self._take(event.data)
            self._read = batch[-1].seq

    def _take(self, data: Mapping[str, Any]) -> None:
        step, epoch = data["step"], data["epoch"]
        if step <= self._step:
            # The run has begun again.
            self.values.clear()
            self.judged = -1
        self._step = step
        value = value_of(self._objective, data["metrics"])
        if value is not None and is_judged(epoch):
            self.values.setdefault(epoch, value)


def value_of(objective: WatchedMetric, metrics: Mapping[str, float | None]) -> float | None:
    """Return an objective's value among logged metrics; None where it is not among them, or undefined."""
    try:
        return objective.value({key: math.nan if value is None else value for key, value in metrics.items()})
    except TaskloomError:
        return None


def is_judged(epoch: int) -> bool:
    """Say whether trials are compared after so many epochs: each of the first hundred, then every tenth, and so on.

    So the longest training keeps some hundreds of values.

    Example:
        >>> [epoch for epoch in (99, 101, 110, 1010, 1100) if is_judged(epoch)]
        [99, 110, 1100]
    """
    return epoch < _EVERY_EPOCH_TO or epoch % 10 ** (int(math.log10(epoch)) - 1) == 0
