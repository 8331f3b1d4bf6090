"""Predictions and scores of whole splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mtl_core.data import DictDataLoader, is_labelled
from mtl_core.errors import TaskloomError
from mtl_core.losses import Loss
from mtl_core.model.task_loss import mean_loss, task_loss
from mtl_core.scoring.scorer import NO_LABEL, Score
from mtl_core.task import Task

LOSS_METRIC = "loss"
"""The metric under which a task's loss on a split is reported."""


class Predictor(Protocol):
    """What is evaluated: the part of a :class:`~mtl_core.MultitaskClassifier` that predicts."""

    name: str
    tasks: dict[str, Task]
    remap_labels: dict[str, str | None]

    @property
    def task_names(self) -> list[str]:
        """The tasks' names."""
        ...

    def infer(
        self, X_dict: Mapping[str, Any], task_names: Iterable[str], kinds: Sequence[str] = ...
    ) -> dict[str, dict[str, Any]]:
        """Predict a batch: for each task, by kind, tensors ``[n, …]`` on the CPU."""
        ...


@dataclass(frozen=True)
class SplitPredictions:
    """Labels and predictions of a whole split, in its loader's order.

    Attributes:
        golds: Labels ``[n, …]`` by label set.
        by_task: By kind (``logits``, ``probs``, ``preds``), then by task: tensors ``[n, …]`` on the CPU.
        task_of: For each label set the task along whose path it was predicted.
    """

    golds: dict[str, torch.Tensor]
    by_task: dict[str, dict[str, torch.Tensor]]
    task_of: dict[str, str]

    def of_labels(self, kind: str) -> dict[str, torch.Tensor]:
        """Return ``golds``, ``logits``, ``probs`` or ``preds`` by label set."""
        if kind == "golds":
            return self.golds
        return {label: self.by_task[kind][task] for label, task in self.task_of.items()}


def tasks_of_labels(
    model: Predictor, label_names: Iterable[str], remap_labels: Mapping[str, str | None] | None
) -> dict[str, str]:
    """Say along which task's path each label set is predicted.

    Args:
        model: Has the tasks, and mappings of its own.
        label_names: The label sets.
        remap_labels: Task by label set, None for not at all; goes before the model's own.

    Returns:
        Task by label set, without those that no task is for.

    Raises:
        TaskloomError: If a label set is mapped to a task that the model lacks.
    """
    remap = model.remap_labels | dict(remap_labels or {})
    tasks: dict[str, str] = {}
    for label in label_names:
        task = remap.get(label, label)
        if task in model.tasks:
            tasks[label] = task
        elif label in remap and task is not None:
            raise TaskloomError(
                f"labels '{label}' are mapped to '{task}', which is no task of model '{model.name}';"
                f" it has {model.task_names}"
            )
    return tasks


def predict_split(
    model: Predictor,
    loader: DictDataLoader,
    remap_labels: Mapping[str, str | None] | None,
    kinds: Sequence[str],
) -> SplitPredictions:
    """Predict a split for every task that its labels are for, one forward pass for each batch.

    Args:
        model: Predicts.
        loader: The split.
        remap_labels: As for :func:`tasks_of_labels`.
        kinds: Which of ``logits``, ``probs`` and ``preds`` to keep.

    Raises:
        TaskloomError: As :func:`tasks_of_labels`.
    """
    task_of = tasks_of_labels(model, loader.dataset.Y_dict, remap_labels)
    task_names = list(dict.fromkeys(task_of.values()))
    golds: dict[str, list[torch.Tensor]] = {label: [] for label in task_of}
    parts: dict[str, dict[str, list[torch.Tensor]]] = {
        kind: {name: [] for name in task_names} for kind in kinds
    }
    for X_dict, Y_dict in loader if task_of else ():
        for name, predicted in model.infer(X_dict, task_names, kinds).items():
            for kind in kinds:
                parts[kind][name].append(predicted[kind])
        for label, batches in golds.items():
            batches.append(Y_dict[label].cpu())
    return SplitPredictions(
        {label: _joined(batches) for label, batches in golds.items()},
        {kind: {name: _joined(batches) for name, batches in of.items()} for kind, of in parts.items()},
        task_of,
    )


def score_split(
    model: Predictor,
    loader: DictDataLoader,
    remap_labels: Mapping[str, str | None] | None,
    with_loss: bool,
) -> list[Score]:
    """Score every task that a split's labels are for; see :meth:`MultitaskClassifier.evaluate`."""
    kinds = ("logits", "probs", "preds") if with_loss else ("probs", "preds")
    predicted = predict_split(model, loader, remap_labels, kinds)
    data = loader.dataset
    rows: list[Score] = []
    for label, task_name in predicted.task_of.items():
        golds = predicted.golds[label]
        preds, probs = (predicted.by_task[kind][task_name].numpy() for kind in ("preds", "probs"))
        scorer = model.tasks[task_name].scorer
        rows += scorer.scores(golds.numpy(), preds, probs, label, data.name, data.split)
        wants_loss = with_loss and LOSS_METRIC not in scorer.metrics
        if wants_loss and isinstance(model.tasks[task_name].loss_func, Loss):
            logits = predicted.by_task["logits"][task_name]
            value, n, reason = _loss(model, task_name, logits, golds)
            rows.append(Score(label, data.name, data.split, LOSS_METRIC, value, n, reason))
    return rows


def _loss(
    model: Predictor, task_name: str, logits: torch.Tensor, golds: torch.Tensor
) -> tuple[float, int, str | None]:
    # Of the split at once: batches of several sizes, or with class weights, have no mean of their means.
    labelled = is_labelled(golds)
    n = int(labelled.sum())
    if not n:
        return math.nan, 0, NO_LABEL
    task = model.tasks[task_name]
    value = mean_loss(task, task_loss(task, logits, golds, labelled).item(), n)
    return value, n, None if math.isfinite(value) else f"the loss is {value}"


def _joined(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(batches)) if batches else torch.empty(0)
