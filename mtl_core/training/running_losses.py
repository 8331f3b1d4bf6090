"""Losses summed between two evaluations, averaged by example."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any

from mtl_core.data import DictDataLoader, is_labelled
from mtl_core.model.task_loss import mean_loss
from mtl_core.task import Task
from mtl_core.training.step_losses import BatchLosses


class RunningLosses:
    """Sums of losses and examples by ``task/dataset/split/loss``, since the last reset.

    Args:
        train_split: The split's name.
        expected: Pairs of task and dataset, as of :func:`labelled_pairs`, whose losses are logged at every evaluation,
            as NaN where no labelled example came between two of them; default: none.
    """

    def __init__(self, train_split: str, expected: Iterable[tuple[str, str]] = ()) -> None:
        self._train_split = train_split
        self._expected = list(expected)
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self._sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)

    def add_all(
        self, pairs: Iterable[tuple[str, str]], losses: Iterable[float], counts: Iterable[int]
    ) -> None:
        """Add a batch's mean losses over labelled examples, by pairs of task and dataset."""
        for pair, loss, count in zip(pairs, losses, counts, strict=True):
            self._sums[pair] += loss * count
            self._counts[pair] += count

    def add_step(self, batches: Iterable[BatchLosses], tasks: Mapping[str, Task]) -> None:
        """Add what the tasks in training lost on the batches of a step."""
        for batch in batches:
            means = [mean_loss(tasks[task], batch.values[task], n) for task, n in batch.counts.items()]
            self.add_all(((task, batch.dataset) for task in batch.counts), means, batch.counts.values())

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, in the order in which their pairs came first: floats add up to others in another order."""
        return {
            "sums": [[*pair, total, self._counts[pair]] for pair, total in self._sums.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.reset()
        for task, dataset, total, count in state["sums"]:
            self._sums[task, dataset], self._counts[task, dataset] = total, count

    def metrics(self) -> dict[str, float]:
        """Return the mean loss of each task and dataset, and of all as ``model/all/<split>/loss``."""
        means = dict.fromkeys(self._expected, math.nan)
        means |= {pair: total / self._counts[pair] for pair, total in self._sums.items()}
        split = self._train_split
        metrics = {f"{task}/{dataset}/{split}/loss": mean for (task, dataset), mean in means.items()}
        if metrics:
            count = sum(self._counts.values())
            metrics[f"model/all/{split}/loss"] = sum(self._sums.values()) / count if count else math.nan
        return metrics


def labelled_pairs(loaders: Iterable[DictDataLoader], tasks: Container[str]) -> list[tuple[str, str]]:
    """Return the pairs of task and dataset for which loaders have a labelled example."""
    return [
        (task, loader.dataset.name)
        for loader in loaders
        for task, labels in loader.dataset.Y_dict.items()
        if task in tasks and bool(is_labelled(labels).any())
    ]
