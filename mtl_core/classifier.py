"""One model for many tasks: modules shared by name, operations shared by what they compute."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from mtl_core.architecture import difference
from mtl_core.data import DictDataLoader, XDict, YDict, is_labelled, to_device
from mtl_core.errors import MODULE_FAILURES, LossError, ModuleConflictError, TaskloomError
from mtl_core.losses import Loss
from mtl_core.metrics import Array
from mtl_core.plan import ExecutionPlan
from mtl_core.scorer import Score
from mtl_core.task import WEIGHTS, Task


class ModulePool(nn.Module):
    """A model's modules by name: any name that a task may give, where ``nn.ModuleDict`` refuses dots."""

    def __setitem__(self, name: str, module: nn.Module) -> None:
        self._modules[_attribute(name)] = module

    def __getitem__(self, name: str) -> nn.Module:
        module = self._modules[_attribute(name)]
        assert module is not None
        return module

    def __contains__(self, name: str) -> bool:
        return _attribute(name) in self._modules

    def __iter__(self) -> Iterator[str]:
        return (key.replace("%2E", ".").replace("%25", "%") for key in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield each module with its name."""
        return ((name, self[name]) for name in self)


def _attribute(name: str) -> str:
    # A dot in a child's name would make its parameters' names ambiguous in a state dict.
    return name.replace("%", "%25").replace(".", "%2E")


class MultitaskClassifier(nn.Module):
    """A model built from a list of tasks.

    Args:
        tasks: The tasks; modules of one name are one module in the model. Of equal declarations the first
            one's weights are taken.
        name: The model's name; default ``"MultitaskClassifier"``.
        device: Where the model lives; default: the first GPU if there is one, else the CPU.

    Raises:
        TaskloomError: If two tasks have one name.
        ModuleConflictError: If two tasks declare one module name with different architectures.

    Example:
        >>> from mtl_core import Operation
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> model = MultitaskClassifier([task])
        >>> outputs = model({"x": torch.zeros(3, 4)}, ["t"])
        >>> tuple(outputs["t"]["head"].shape)
        (3, 2)
    """

    def __init__(
        self, tasks: Iterable[Task], name: str | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.name = name or type(self).__name__
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.module_pool = ModulePool()
        self.tasks: dict[str, Task] = {}
        self.plan = ExecutionPlan()
        self._declared_by: dict[str, str] = {}
        for task in tasks:
            self.add_task(task)

    @property
    def task_names(self) -> list[str]:
        """The tasks' names, in the order they were added."""
        return list(self.tasks)

    def add_task(self, task: Task) -> None:
        """Add a task; modules that the model has already keep their weights.

        Raises:
            TaskloomError: If the model has a task of that name.
            ModuleConflictError: If a module name is declared with another architecture; the model stays as it
                was.
        """
        if task.name in self.tasks:
            raise TaskloomError(f"found duplicate task '{task.name}': different tasks need different names")
        for name, module in task.module_pool.items():
            if name in self.module_pool and (what := difference(self.module_pool[name], module)):
                raise ModuleConflictError(name, self._declared_by[name], task.name, what)
        for name, module in task.module_pool.items():
            if name not in self.module_pool:
                self.module_pool[name] = module.to(self.device)
                self._declared_by[name] = task.name
        self.tasks[task.name] = task
        self.plan.add_task(task)

    def forward(self, X_dict: Mapping[str, Any], task_names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Run the batch along the paths of the named tasks, every distinct operation once.

        Args:
            X_dict: Fields by name, tensors ``[n, …]``.
            task_names: Whose outputs are wanted.

        Returns:
            For each task, by operation name, the output of every operation that the wanted outputs depend on.

        Raises:
            OperationError: If an operation fails on its inputs.
        """
        wanted = list(task_names)
        self._check_tasks(wanted)
        computed = self._compute(X_dict, wanted)
        return {
            name: {op: computed[node] for op, node in self.plan.operations[name].items() if node in computed}
            for name in wanted
        }

    def calculate_loss(
        self, X_dict: Mapping[str, Any], Y_dict: YDict
    ) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
        """Return each task's loss over its labelled examples, and how many those were.

        Args:
            X_dict: Fields by name, ``[n, …]``; under ``"_weights_"`` one weight for each example, float32 ``[n]`` and
                at least 0, by which the losses are averaged; default: all 1.
            Y_dict: Labels by task name, ``[n]`` or ``[n, …]``; tasks that the model lacks are ignored.

        Returns:
            Scalar loss by task and count of labelled examples by task; a task with none appears in neither.

        Raises:
            OperationError: If an operation fails on its inputs.
            LossError: If a loss function cannot take its task's outputs, labels or weights.
            TaskloomError: If the weights are not one number of at least 0 for each example.
        """
        weights = _checked_weights(X_dict)
        labelled = {name: is_labelled(labels) for name, labels in Y_dict.items() if name in self.tasks}
        labelled = {name: mask for name, mask in labelled.items() if bool(mask.any())}
        computed = self._compute(X_dict, labelled)
        losses: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}
        for name, mask in labelled.items():
            outputs, labels = computed[self.plan.output_node(name)], Y_dict[name]
            counts[name] = int(mask.sum())
            if counts[name] < len(labels):
                outputs, labels = outputs[mask.to(outputs.device)], labels[mask]
            if weights is None:
                losses[name] = self._loss(name, outputs, labels)
            else:
                losses[name] = self._loss(name, outputs, labels, weights[mask.to(weights.device)])
        return losses, counts

    def infer(
        self, X_dict: Mapping[str, Any], task_names: Iterable[str]
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Predict a batch for several tasks in one forward pass, without gradients and in evaluation mode.

        Args:
            X_dict: Fields by name, ``[n, …]``.
            task_names: Whose predictions are wanted.

        Returns:
            For each task ``logits``, ``probs`` and ``preds``, tensors ``[n, …]`` on the CPU.
        """
        wanted = list(task_names)
        self._check_tasks(wanted)
        with self._evaluating():
            computed = self._compute(X_dict, wanted)
            predictions: dict[str, dict[str, torch.Tensor]] = {}
            for name in wanted:
                logits = computed[self.plan.output_node(name)]
                output = self.tasks[name].output_func
                probs = output(logits)
                predictions[name] = {
                    "logits": logits.cpu(),
                    "probs": probs.cpu(),
                    "preds": output.preds(probs).cpu(),
                }
        return predictions

    def predict(self, dataloader: DictDataLoader, return_preds: bool = False) -> dict[str, dict[str, Array]]:
        """Predict a whole split for every task that its labels name.

        Labels and predictions of all examples are in memory at once; their fields are not.

        Args:
            dataloader: The split.
            return_preds: Whether to answer ``preds`` too.

        Returns:
            ``golds`` and ``probs`` (and ``preds``), each by task name: arrays ``[n, …]`` in the loader's
            order.
        """
        names = [name for name in dataloader.dataset.Y_dict if name in self.tasks]
        kinds = ["golds", "probs", *(["preds"] if return_preds else [])]
        parts: dict[str, dict[str, list[torch.Tensor]]] = {
            kind: {name: [] for name in names} for kind in kinds
        }
        for X_dict, Y_dict in dataloader:
            for name, predicted in self.infer(X_dict, names).items():
                for kind in kinds:
                    parts[kind][name].append(Y_dict[name].cpu() if kind == "golds" else predicted[kind])
        return {
            kind: {name: _concatenated(batches) for name, batches in by_task.items()}
            for kind, by_task in parts.items()
        }

    def evaluate(self, dataloaders: Sequence[DictDataLoader]) -> list[Score]:
        """Score every task on every split that carries labels for it, as :meth:`predict` predicts them.

        Example weights do not count here: scores are those of the examples as they are.

        Returns:
            One row per task, dataset, split and metric, with the number of labelled examples.
        """
        rows: list[Score] = []
        for loader in dataloaders:
            results = self.predict(loader, return_preds=True)
            for name in results["golds"]:
                golds, preds, probs = (results[kind][name] for kind in ("golds", "preds", "probs"))
                scorer = self.tasks[name].scorer
                rows += scorer.scores(golds, preds, probs, name, loader.dataset.name, loader.dataset.split)
        return rows

    def score(self, dataloaders: Sequence[DictDataLoader]) -> dict[str, float]:
        """Score every task on every split that carries labels for it.

        Returns:
            Value by ``task/dataset/split/metric``; NaN where a metric is undefined.
        """
        return {score.key: score.value for score in self.evaluate(dataloaders)}

    def _compute(self, X_dict: Mapping[str, Any], task_names: Iterable[str]) -> dict[int, Any]:
        fields = {name: values for name, values in X_dict.items() if name != WEIGHTS}
        X_dict_here: XDict = to_device(fields, self.device)
        return self.plan.run(X_dict_here, task_names, lambda name, inputs: self.module_pool[name](*inputs))

    def _loss(
        self, name: str, outputs: torch.Tensor, labels: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor:
        loss_func = self.tasks[name].loss_func
        if weights and not isinstance(loss_func, Loss):
            raise LossError(name, "it takes no example weights, as only the losses of the catalogue do")
        try:
            return loss_func(outputs, labels.to(outputs.device), *weights)
        except MODULE_FAILURES as error:
            shapes = f"outputs of shape {list(outputs.shape)} and labels of shape {list(labels.shape)}"
            raise LossError(name, f"{type(error).__name__}: {error} ({shapes})") from error

    def _check_tasks(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.tasks:
                raise TaskloomError(f"model '{self.name}' has no task '{name}'; it has {self.task_names}")

    @contextmanager
    def _evaluating(self) -> Generator[None]:
        was_training = self.training
        if was_training:
            self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if was_training:
                self.train()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, tasks={self.task_names})"


def _checked_weights(X_dict: Mapping[str, Any]) -> torch.Tensor | None:
    """Return a batch's example weights, if it has any."""
    if WEIGHTS not in X_dict:
        return None
    weights = torch.as_tensor(X_dict[WEIGHTS])
    n = {len(values) for name, values in X_dict.items() if name != WEIGHTS}
    if (
        weights.ndim != 1
        or {len(weights)} != n
        or not bool((weights >= 0).all() and weights.isfinite().all())
    ):
        raise TaskloomError(
            f"the weights under '{WEIGHTS}' should be finite and at least 0, one for each example"
        )
    return weights


def _concatenated(batches: Sequence[torch.Tensor]) -> Array:
    return torch.cat(list(batches)).numpy() if batches else np.empty(0)
