"""Losses summed between two evaluations, averaged by example."""

from __future__ import annotations

from collections import defaultdict


class RunningLosses:
    """Sums of losses and examples by ``task/dataset/split/loss``, since the last reset."""

    def __init__(self, train_split: str) -> None:
        self._train_split = train_split
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)

    def add(self, task: str, dataset: str, loss: float, count: int) -> None:
        """Add a batch's mean loss over ``count`` labelled examples of one task."""
        key = f"{task}/{dataset}/{self._train_split}/loss"
        self._sums[key] += loss * count
        self._counts[key] += count

    def metrics(self) -> dict[str, float]:
        """Return the mean loss of each task and dataset, and of all as ``model/all/<split>/loss``."""
        means = {key: total / self._counts[key] for key, total in self._sums.items()}
        if means:
            overall = sum(self._sums.values()) / sum(self._counts.values())
            means[f"model/all/{self._train_split}/loss"] = overall
        return means
