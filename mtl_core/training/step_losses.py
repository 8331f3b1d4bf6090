"""The losses of one step: of each of its batches, and of each task over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mtl_core.losses import Loss
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.cut import Cut
from mtl_core.model.devices import numbers_of
from mtl_core.task import Task
from mtl_core.training.batch_schedules import Draw
from mtl_core.training.early_stopping import Stopper


@dataclass(frozen=True)
class BatchLosses:
    """What the tasks lost on one batch.

    Attributes:
        dataset: The dataset that it came from.
        losses: Scalars by task, with what stands in the place of those of tasks that have peaked.
        counts: How many examples are labelled for each task that is in training.
        values: The losses as numbers.
    """

    dataset: str
    losses: Mapping[str, torch.Tensor]
    counts: Mapping[str, int]
    values: Mapping[str, float]


def batch_losses(
    model: MultitaskClassifier,
    stopper: Stopper,
    draws: Sequence[Draw],
    cut: Cut | None = None,
    *,
    jointly: bool = False,
) -> list[BatchLosses]:
    """Return the losses of each batch of a step.

    Args:
        model: The model.
        stopper: Knows which tasks have peaked.
        draws: The step's batches.
        cut: Takes in the representations that the tasks of a batch share; default: none is cut.
        jointly: As of :meth:`~mtl_core.MultitaskClassifier.calculate_loss`.
    """
    found: list[BatchLosses] = []
    for (X_dict, Y_dict), loader in draws:
        labels = {task: Y for task, Y in Y_dict.items() if task not in stopper.peaked}
        losses, counts = model.calculate_loss(X_dict, labels, cut, jointly=jointly)
        losses |= stopper.losses(X_dict, Y_dict)
        values = dict(zip(losses, numbers_of(list(losses.values())), strict=True))
        found.append(BatchLosses(loader.dataset.name, losses, counts, values))
    return found


def n_examples(draws: Sequence[Draw]) -> int:
    """Return how many examples the batches of a step have together."""
    return sum(len(next(iter(X_dict.values()))) for (X_dict, _), _ in draws)


def task_losses(tasks: Mapping[str, Task], batches: Sequence[BatchLosses]) -> dict[str, torch.Tensor]:
    """Return each task's loss over all batches of a step: what they would give as one batch.

    That is the mean over the labelled examples, or the sum where the task's loss is one.
    """
    if len(batches) == 1:
        return dict(batches[0].losses)
    parts: dict[str, list[tuple[torch.Tensor, int]]] = {}
    for batch in batches:
        for task, loss in batch.losses.items():
            # What holds a task that has peaked counts by batches.
            parts.setdefault(task, []).append((loss, batch.counts.get(task, 1)))
    return {task: _joined(tasks[task], of_task) for task, of_task in parts.items()}


def _joined(task: Task, parts: Sequence[tuple[torch.Tensor, int]]) -> torch.Tensor:
    if isinstance(task.loss_func, Loss) and task.loss_func.reduction == "sum":
        return torch.stack([loss for loss, _ in parts]).sum()
    total = sum(count for _, count in parts)
    return torch.stack([loss * (count / total) for loss, count in parts]).sum()
