"""One model for many tasks: outputs, losses, predictions and scores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, cast

import torch

from mtl_core.data import DictDataLoader, YDict, is_labelled
from mtl_core.errors import MODULE_FAILURES
from mtl_core.model.cut import Cut
from mtl_core.model.devices import ClassifierConfig, numbers_of
from mtl_core.model.evaluation import Evaluation, tasks_of_labels
from mtl_core.model.inference import KINDS, evaluation_mode, fields_on, run_plan
from mtl_core.model.joint_losses import joint_heads
from mtl_core.model.network import TaskNetwork
from mtl_core.model.output_dict import OutputDict
from mtl_core.model.paths import TaskPaths
from mtl_core.model.task_loss import example_weights, task_loss
from mtl_core.model.weights import load_weights, save_weights
from mtl_core.scoring.dataframes import metrics_dict_to_dataframe
from mtl_core.scoring.scorer import Score
from mtl_core.task import Task


class MultitaskClassifier(TaskNetwork):
    """A model built from a list of tasks.

    Args:
        tasks: The tasks; modules of one name are one module in the model. Of equal declarations the first
            one's weights are taken.
        name: The model's name; default ``"MultitaskClassifier"``.
        device: Where the model lives: -1 for the CPU, 0 and up for the GPU of that number, or the CPU where torch finds
            no GPU; or a device's name, or a ``torch.device``, taken as it is. Default 0.
        dataparallel: Whether a model on a GPU spreads every batch over all GPUs of the machine; default True.

    Attributes:
        config: ``device`` and ``dataparallel`` as they were given.
        remap_labels: Along which task's path a label set is scored, None for not at all; default: each along the task
            of its own name. ``predict``, ``score`` and ``evaluate`` take an argument of the same name, which goes
            before it; losses take no notice of either.

    Raises:
        TaskloomError: If two tasks have one name.
        ModuleConflictError: If two tasks declare one module name with different architectures.

    Example:
        >>> from torch import nn
        >>> from mtl_core import Operation
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> model = MultitaskClassifier([task], device=-1)
        >>> outputs = model({"x": torch.zeros(3, 4)}, ["t"])
        >>> tuple(outputs["head"].shape)
        (3, 2)
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        name: str | None = None,
        device: int | str | torch.device = 0,
        dataparallel: bool = True,
    ) -> None:
        super().__init__(name, ClassifierConfig(device, dataparallel))
        for task in tasks:
            self.add_task(task)

    def forward(self, X_dict: Mapping[str, Any], task_names: Iterable[str]) -> OutputDict:
        """Run the batch along the paths of the named tasks, every distinct operation once.

        Args:
            X_dict: Fields by name, tensors ``[n, …]``.
            task_names: Whose outputs are wanted.

        Returns:
            The output of every operation that the tasks' outputs depend on, by operation name, or by task and
            operation name where a name alone would mean several things; under ``"_input_"`` the fields.

        Raises:
            OperationError: If an operation fails on its inputs.
        """
        wanted = list(task_names)
        self._check_tasks(wanted)
        fields = self._fields(X_dict)
        computed = self._compute(fields, wanted)
        operations = {
            name: {op: node for op, node in self.plan.operations[name].items() if node in computed}
            for name in wanted
        }
        return OutputDict(fields, computed, operations)

    def calculate_loss(
        self, X_dict: Mapping[str, Any], Y_dict: YDict, cut: Cut | None = None, *, jointly: bool = False
    ) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """Return each task's loss over its labelled examples, and how many those were.

        Args:
            X_dict: Fields by name, ``[n, …]``; under ``"_weights_"`` one weight for each example, float32 ``[n]`` and
                at least 0, by which the losses are averaged; default: all 1.
            Y_dict: Labels by task name, ``[n]`` or ``[n, …]``; tasks that the model lacks are ignored.
            cut: Takes in the representation that the labelled tasks share, where the graph of the losses then begins;
                default: the graph is whole.
            jointly: Whether sibling linear heads may be one product and one loss, so that each task's gradient by
                itself costs as much as that of all of them, and is 0 where others are None; default False.

        Returns:
            Scalar loss by task and count of labelled examples by task; a task with none appears in neither.

        Raises:
            OperationError: If an operation fails on its inputs.
            LossError: If a loss function cannot take its task's outputs, labels or weights.
            TaskloomError: If the weights are not one number of at least 0 for each example.
        """
        weights = example_weights(X_dict)
        masks = {name: is_labelled(labels) for name, labels in Y_dict.items() if name in self.tasks}
        sizes = cast("list[int]", numbers_of([mask.sum() for mask in masks.values()]))
        counts = {name: n for name, n in zip(masks, sizes, strict=True) if n}
        fields = self._fields(X_dict)
        together = jointly and weights is None
        joint = joint_heads(self, {name: Y_dict[name] for name in counts}) if together else []
        computed = self._compute(fields, counts, cut, {node for heads in joint for node in heads.nodes})
        found: dict[str, torch.Tensor] = {}
        for heads in joint:
            try:
                values = heads.losses(fields, computed, [Y_dict[name] for name in heads.tasks])
            except MODULE_FAILURES:
                # One by one they say which of them it is.
                return self.calculate_loss(X_dict, Y_dict, cut)
            found |= zip(heads.tasks, values.unbind(), strict=True)
        for name, n in counts.items():
            if name not in found:
                outputs, labels = computed[self.plan.output_node(name)], Y_dict[name]
                labelled = masks[name] if n < len(labels) else None
                found[name] = task_loss(self.tasks[name], outputs, labels, labelled, weights)
        return {name: found[name] for name in counts}, counts

    def infer(
        self, X_dict: Mapping[str, Any], task_names: Iterable[str], kinds: Sequence[str] = KINDS
    ) -> dict[str, dict[str, Any]]:
        """Predict a batch for several tasks in one forward pass, without gradients and in evaluation mode.

        Args:
            X_dict: Fields by name, ``[n, …]``.
            task_names: Whose predictions are wanted.
            kinds: Which of ``"logits"``, ``"probs"`` and ``"preds"`` to answer; default: all three.

        Returns:
            For each task, by kind: tensors ``[n, …]`` on the CPU, in float32 where the model computed in half
            precision. Logits are of the form in which the task's last operation answers them.
        """
        with evaluation_mode(self):
            return TaskPaths(self, task_names, kinds)(X_dict)

    def predict(
        self,
        dataloader: DictDataLoader,
        return_preds: bool = False,
        remap_labels: Mapping[str, str | None] | None = None,
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Predict a whole split for every task that its labels name.

        Labels and predictions of all examples are in memory at once; their fields are not.

        Args:
            dataloader: The split.
            return_preds: Whether to answer ``preds`` too; default False.
            remap_labels: Along which task's path a label set is predicted, None for not at all; default: each along
                the task of its own name, or as the attribute of the same name says.

        Returns:
            ``golds`` and ``probs`` (and ``preds``), each by label set: tensors ``[n, …]`` on the CPU in the loader's
            order, labels of the dataset's dtype.

        Raises:
            TaskloomError: If labels are mapped to a task that the model lacks.
        """
        kinds = ("probs", "preds") if return_preds else ("probs",)
        task_of = tasks_of_labels(self, dataloader.dataset.Y_dict, remap_labels)
        with evaluation_mode(self):
            predicted = Evaluation(self).predict(dataloader, task_of, dict.fromkeys(task_of.values(), kinds))
        return {
            "golds": {label: predicted.reading.golds(label).clone() for label in task_of},
            **{
                kind: {label: predicted.of_task(kind, task).clone() for label, task in task_of.items()}
                for kind in kinds
            },
        }

    def evaluate(
        self,
        dataloaders: Iterable[DictDataLoader],
        remap_labels: Mapping[str, str | None] | None = None,
        with_loss: bool = False,
    ) -> list[Score]:
        """Score every task on every split that carries labels for it, as :meth:`predict` predicts them.

        Example weights do not count here: scores are those of the examples as they are. Where a loader gathers its
        batches by index and every module on the tasks' paths is known to compute each row by itself in evaluation mode
        (linear layers, normalisation, activations, embeddings), batches are as large as is quick, in any order. Other
        modules, unless they have hooks, are given up to eight of the loader's batches at once if its first two,
        answered apart and together, agree. Otherwise batches are the loader's.

        Args:
            dataloaders: The splits.
            remap_labels: As for :meth:`predict`.
            with_loss: Whether to add a row of the metric ``loss`` for each label set, the task's loss for a labelled
                example of the split in evaluation mode, where the task has a loss of the catalogue; default False.
                A task's own metric of that name stands in its place.

        Returns:
            One row per label set, dataset, split and metric, with the number of labelled examples.

        Raises:
            TaskloomError: As :meth:`predict`.
        """
        with evaluation_mode(self):
            evaluation = Evaluation(self)
            return [
                row for loader in dataloaders for row in evaluation.score(loader, remap_labels, with_loss)
            ]

    def score(
        self,
        dataloaders: Iterable[DictDataLoader],
        remap_labels: Mapping[str, str | None] | None = None,
        as_dataframe: bool = False,
    ) -> Any:
        """Score every task on every split that carries labels for it.

        Args:
            dataloaders: The splits.
            remap_labels: As for :meth:`predict`.
            as_dataframe: Whether to answer a pandas ``DataFrame`` with the columns ``label``, ``dataset``, ``split``,
                ``metric`` and ``score``; default False.

        Returns:
            Value by ``task/dataset/split/metric``; NaN where a metric is undefined.
        """
        scores = {score.key: score.value for score in self.evaluate(dataloaders, remap_labels)}
        return metrics_dict_to_dataframe(scores) if as_dataframe else scores

    def save(self, model_path: str | PathLike[str]) -> None:
        """Write the model's weights to a safetensors file, whole or not at all; missing folders are made.

        Args:
            model_path: The file; one that is there is replaced.
        """
        save_weights(self, model_path)

    def load(self, model_path: str | PathLike[str]) -> None:
        """Read weights that :meth:`save` wrote for a model of the same modules.

        Args:
            model_path: The file.

        Raises:
            FileNotFoundError: If there is none.
            TaskloomError: If it is no safetensors file, or is not of these modules; the model stays as it was.
        """
        load_weights(self, model_path)

    def _fields(self, X_dict: Mapping[str, Any]) -> dict[str, Any]:
        return fields_on(self.device, X_dict)

    def _compute(
        self,
        fields: Mapping[str, Any],
        task_names: Iterable[str],
        cut: Cut | None = None,
        without: Collection[int] = (),
    ) -> dict[int, Any]:
        return run_plan(self, fields, task_names, cut, without)
