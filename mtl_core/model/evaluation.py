"""Predictions and scores of whole splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from mtl_core.data import DictDataLoader, is_labelled
from mtl_core.errors import TaskloomError
from mtl_core.losses import Loss
from mtl_core.model.inference import Block, Inference
from mtl_core.model.network import TaskNetwork
from mtl_core.model.reading import SplitReading
from mtl_core.model.task_loss import mean_loss, task_loss
from mtl_core.scoring.metrics import Array
from mtl_core.scoring.scorer import NO_LABEL, Score
from mtl_core.task import Task

LOSS_METRIC = "loss"
"""The metric under which a task's loss on a split is reported."""


class _Column:
    """What was answered of one kind, batch by batch: int64 in the narrowest integers that hold it.

    It is one tensor from the start: small ones left over from each batch would keep the memory between them.

    Args:
        block: The tasks that it was answered of.
        rows: How many rows there will probably be.
    """

    def __init__(self, block: Block, rows: int) -> None:
        self._block = block
        self._rows = rows
        self._n = 0
        self._values: torch.Tensor | None = None
        self._dtype: torch.dtype | None = None

    def add(self, values: torch.Tensor) -> None:
        """Add what was answered of a batch.

        Raises:
            TaskloomError: If a row of it has another shape than those before.
        """
        along, n = self._block.examples, values.shape[self._block.examples]
        narrow, end = _narrowed(values), self._n + n
        if self._values is None:
            self._dtype = values.dtype
            self._values = narrow if end >= self._rows else _with_rows(narrow, along, self._rows)
        elif (shape := _row_shape(narrow, along)) != (before := _row_shape(self._values, along)):
            raise TaskloomError(
                f"a task's answers for one example differ in shape from batch to batch: {before} and {shape}"
            )
        if end > self._values.shape[along]:
            # A sampler may draw more examples than there are.
            room = _with_rows(self._values, along, end - self._n)
            self._values = torch.cat([self._values.narrow(along, 0, self._n), room], dim=along)
        if self._values is not narrow:
            self._values = self._values.to(torch.promote_types(self._values.dtype, narrow.dtype))
            self._values.narrow(along, self._n, n).copy_(narrow)
        self._n = end

    def of_task(self, place: int) -> torch.Tensor:
        """Return the values ``[n, …]`` of the task at a place in its block, in the dtype in which they came."""
        # Of no example at all, nothing was answered.
        if self._values is None:
            return torch.empty(0)
        values = self._values.narrow(self._block.examples, 0, self._n)
        return self._block.of_task(values, place).to(self._dtype).contiguous()


def _with_rows(like: torch.Tensor, along: int, n: int) -> torch.Tensor:
    """Return new memory for ``n`` rows along a dimension, else of another tensor's shape."""
    shape = list(like.shape)
    shape[along] = n
    return like.new_empty(shape)


def _row_shape(values: torch.Tensor, along: int) -> list[int]:
    shape = list(values.shape)
    del shape[along]
    return shape


@dataclass(frozen=True)
class SplitPredictions:
    """Labels and predictions of a whole split, in its loader's order.

    Attributes:
        reading: The split, read to its end.
        columns: For each task its place in the block in which it was answered, and what was answered of that, by kind.
    """

    reading: SplitReading
    columns: dict[str, tuple[int, dict[str, _Column]]]

    def of_task(self, kind: str, task_name: str) -> torch.Tensor:
        """Return ``logits``, ``probs`` or ``preds`` of a task: a tensor ``[n, …]`` on the CPU."""
        place, by_kind = self.columns[task_name]
        return by_kind[kind].of_task(place)


def tasks_of_labels(
    model: TaskNetwork, label_names: Iterable[str], remap_labels: Mapping[str, str | None] | None
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


class Evaluation:
    """Predicts and scores splits one after the other, while the model's weights stay as they are.

    Args:
        model: The model; it must be in evaluation mode.
    """

    def __init__(self, model: TaskNetwork) -> None:
        self._model = model
        self._inferences: dict[tuple[tuple[str, tuple[str, ...]], ...], Inference] = {}

    def predict(
        self,
        loader: DictDataLoader,
        task_of: Mapping[str, str],
        kinds: Mapping[str, tuple[str, ...]],
        *,
        in_any_order: bool = False,
    ) -> SplitPredictions:
        """Predict a split for every task that its labels are for, one forward pass for each batch.

        Args:
            loader: The split.
            task_of: Task by label set, as :func:`tasks_of_labels` gives it.
            kinds: For each of the tasks, which of ``logits``, ``probs`` and ``preds`` to keep.
            in_any_order: Whether examples need not be in the loader's order; default False.
        """
        inference = self._inference(kinds)
        reading = inference.reading(loader, task_of, in_any_order=in_any_order)
        rows = len(loader.dataset)
        columns = [{kind: _Column(block, rows) for kind in block.kinds} for block in inference.blocks]
        for answers in inference.answers(reading) if task_of else ():
            for by_kind, answered in zip(columns, answers, strict=True):
                for kind, column in by_kind.items():
                    column.add(answered[kind])
        return SplitPredictions(
            reading,
            {
                name: (place, by_kind)
                for block, by_kind in zip(inference.blocks, columns, strict=True)
                for place, name in enumerate(block.tasks)
            },
        )

    def score(
        self, loader: DictDataLoader, remap_labels: Mapping[str, str | None] | None, with_loss: bool
    ) -> list[Score]:
        """Score every task that a split's labels are for; see :meth:`MultitaskClassifier.evaluate`.

        Of what the tasks answer, only that is kept which their metrics look at, or their losses.
        """
        data = loader.dataset
        task_of = tasks_of_labels(self._model, data.Y_dict, remap_labels)
        kinds = {name: _kinds(self._model.tasks[name], with_loss) for name in task_of.values()}
        predicted = self.predict(loader, task_of, kinds, in_any_order=True)
        rows: list[Score] = []
        for label, task_name in task_of.items():
            golds, task = predicted.reading.golds(label), self._model.tasks[task_name]
            arrays = {kind: predicted.of_task(kind, task_name) for kind in kinds[task_name]}
            given, preds = _array(task, golds), _array(task, arrays["preds"])
            probs = _array(task, arrays["probs"]) if "probs" in arrays else None
            rows += task.scorer.scores(given, preds, probs, label, data.name, data.split)
            if "logits" in arrays:
                value, n, reason = _loss(task, arrays["logits"], golds)
                rows.append(Score(label, data.name, data.split, LOSS_METRIC, value, n, reason))
        return rows

    def _inference(self, kinds: Mapping[str, tuple[str, ...]]) -> Inference:
        key = tuple(kinds.items())
        if key not in self._inferences:
            self._inferences[key] = Inference(self._model, kinds)
        return self._inferences[key]


def _kinds(task: Task, with_loss: bool) -> tuple[str, ...]:
    """Return what of a task's answers its metrics look at, and its loss."""
    # Which examples abstain is for every metric to know.
    probs = ("probs",) if "probs" in task.scorer.inputs else ()
    return ("preds", *probs, *(("logits",) if with_loss and _has_loss_row(task) else ()))


def _array(task: Task, tensor: torch.Tensor) -> Array:
    """Return a tensor as the task's metrics may have it."""
    # A function of one's own may write to what it is given, which may be the dataset's own memory.
    return tensor.numpy() if task.scorer.is_of_catalogue else tensor.numpy().copy()


def _has_loss_row(task: Task) -> bool:
    return LOSS_METRIC not in task.scorer.metrics and isinstance(task.loss_func, Loss)


def _loss(task: Task, logits: torch.Tensor, golds: torch.Tensor) -> tuple[float, int, str | None]:
    # Of the split at once: batches of several sizes, or with class weights, have no mean of their means.
    labelled = is_labelled(golds)
    n = int(labelled.sum())
    if not n:
        return math.nan, 0, NO_LABEL
    value = mean_loss(task, task_loss(task, logits, golds, labelled).item(), n)
    return value, n, None if math.isfinite(value) else f"the loss is {value}"


def _narrowed(values: torch.Tensor) -> torch.Tensor:
    if values.dtype != torch.int64 or values.numel() < _FEW:
        return values
    low, high = (int(end) for end in values.aminmax())
    for dtype in (torch.int8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return values.to(dtype)
    return values


_FEW = 4_096
"""Fewer numbers than this take little memory in any form."""
