"""Losses and gradients that are NaN or infinite: training fails on them, or passes their batches over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from mtl_core.errors import NonFiniteLossError
from mtl_core.model.classifier import MultitaskClassifier


class BatchPosition(NamedTuple):
    """Where in a training a batch stands, or those that are drawn together.

    Attributes:
        datasets: The datasets that they came from.
        epoch: The epoch, from 0.
        batch: Its number in the epoch, from 0.
        step: Its number in the whole training, from 0.
    """

    datasets: tuple[str, ...]
    epoch: int
    batch: int
    step: int

    def of(self, dataset: str) -> BatchPosition:
        """Return the position of one dataset's batch among those that are drawn together."""
        return self._replace(datasets=(dataset,))


class FinitenessGuard:
    """Looks at the losses and gradients of every batch before a step is taken on them.

    Args:
        policy: ``"fail"``, or ``"skip"`` to pass a batch over.
        max_skipped: More batches in a row than this are not skipped.
        tell: Called with a message about each batch that is skipped.
    """

    def __init__(
        self, policy: Literal["fail", "skip"], max_skipped: int, tell: Callable[[str], None]
    ) -> None:
        self._policy = policy
        self._max_skipped = max_skipped
        self._tell = tell
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._batches = 0
        self._in_a_row = 0
        self._last: int | None = None
        self._buffers: dict[torch.Tensor, torch.Tensor] = {}

    def before(self, model: MultitaskClassifier) -> None:
        """Remember the model's buffers before a batch is computed, where the batch may be skipped.

        Running statistics, as of batch normalization, take a batch in when it is computed, and would stay NaN for good.
        """
        if self._policy == "skip":
            self._buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}

    def passes(
        self, what: Literal["loss", "gradient"], values: Mapping[str, float], position: BatchPosition
    ) -> bool:
        """Say whether all values are finite; where they are not, count the batch as skipped.

        The model's buffers are then put back to what they were at :meth:`before`.

        Args:
            what: What the values are.
            values: By task.
            position: The batch.

        Raises:
            NonFiniteLossError: If one is not and the policy is to fail, or too many batches in a row were skipped.
        """
        bad = {task: value for task, value in values.items() if not math.isfinite(value)}
        if not bad:
            return True
        self._in_a_row = self._in_a_row + 1 if self._last == position.step - 1 else 1
        self._last = position.step
        task, value = next(iter(bad.items()))
        error = NonFiniteLossError(
            task, " and ".join(position.datasets), position.epoch, position.step, value, position.batch, what
        )
        if self._policy == "fail":
            raise error
        if self._in_a_row > self._max_skipped:
            self._tell(f"{self._max_skipped} batches in a row were skipped: training fails on the next")
            raise error
        for buffer, kept in self._buffers.items():
            buffer.copy_(kept)
        self._batches += 1
        dataset = " and ".join(position.datasets)
        self._skipped.update((task, dataset) for task in bad)
        self._tell(f"skipped a batch: {error}")
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what was skipped so far."""
        return {
            "skipped": [[*pair, n] for pair, n in self._skipped.items()],
            "batches": self._batches,
            "in_a_row": self._in_a_row,
            "last": self._last,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._skipped = Counter({(task, dataset): n for task, dataset, n in state["skipped"]})
        self._batches, self._in_a_row, self._last = state["batches"], state["in_a_row"], state["last"]

    def metrics(self, split: str) -> dict[str, float]:
        """Return how many batches were skipped so far; where none was, there is no such metric.

        Returns:
            Counts by ``task/dataset/<split>/skipped``, and of all batches as ``model/all/<split>/skipped``.
        """
        if not self._batches:
            return {}
        counts = {
            f"{task}/{dataset}/{split}/skipped": float(n) for (task, dataset), n in self._skipped.items()
        }
        return counts | {f"model/all/{split}/skipped": float(self._batches)}


def non_finite_gradients(model: MultitaskClassifier) -> list[str]:
    """Return the modules that have a gradient which is NaN or infinite somewhere."""
    return [
        name
        for name, module in model.module_pool.items()
        if not all(
            bool(torch.isfinite(parameter.grad).all())
            for parameter in module.parameters()
            if parameter.grad is not None
        )
    ]


def suspects(model: MultitaskClassifier, task_names: Sequence[str]) -> list[str]:
    """Return the tasks that have a module to themselves whose gradient is not finite, or all if there is none.

    Args:
        model: Its parameters have the gradients.
        task_names: The tasks that the gradients come from.
    """
    bad = set(non_finite_gradients(model))
    paths = {name: set(model.modules_of(name)) for name in task_names}
    found = [
        name
        for name, path in paths.items()
        if bad & path.difference(*(paths[other] for other in task_names if other != name))
    ]
    return found or list(task_names)
