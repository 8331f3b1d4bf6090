"""What a run may take, and what it has taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.tables import Run


@dataclass(frozen=True)
class Allowance:
    """What a run may take.

    Attributes:
        seconds: How long a worker may be busy with it; None for as long as it takes.
        steps: Batches of all its trainings; None for any number.
        memory_mib: Memory that its process may hold; None for all there is.
        spent: How many seconds the attempts took that are over.
    """

    seconds: float | None
    steps: int | None
    memory_mib: int | None
    spent: float

    @classmethod
    def of(cls, run: Run) -> Allowance:
        """Return a run's."""
        limits: dict[str, Any] = run.request.get("limits") or {}
        spent = sum(_seconds(attempt) for attempt in run.attempts if attempt["ended_at"])
        return cls(limits.get("seconds"), limits.get("steps"), limits.get("memory_mib"), spent)

    def reached(self, seconds: float = 0.0, step: int = 0) -> str | None:
        """Say which limit is reached.

        Args:
            seconds: How long the present attempt has taken.
            step: Batches of all trainings so far.
        """
        if self.seconds is not None and self.spent + seconds >= self.seconds:
            return f"at its limit of {self.seconds:g} seconds"
        if self.steps is not None and step >= self.steps:
            return f"at its limit of {self.steps:,} steps"
        return None

    def failure(self, seconds: float, step: int = 0) -> str | None:
        """Say why the run fails, if a limit is reached."""
        reached = self.reached(seconds, step)
        return reached and f"it was stopped {reached}: resume it with a higher one, and it goes on from there"

    def memory_failure(self, mib: int) -> str | None:
        """Say why the run fails, if its process may not hold so much memory."""
        most = self.memory_mib
        if most is None or mib <= most:
            return None
        return (
            f"it held {mib:,} MiB of memory, more than its limit of {most:,} MiB: a smaller batch_size, or smaller"
            " layers, take less; or resume it with a higher limit"
        )


def _seconds(attempt: dict[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(attempt[name]) for name in ("started_at", "ended_at"))
    return max(0.0, (ended - begun).total_seconds())
