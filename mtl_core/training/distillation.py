"""Holding shared modules to what tasks answered before: distillation from frozen copies of the tasks' paths."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from mtl_core.losses import BinaryCrossEntropy, CrossEntropy, Loss
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.devices import map_tensors, to_device
from mtl_core.model.plan import FieldInput, NodeInput
from mtl_core.task import WEIGHTS, LossFunction


class Teacher:
    """What some tasks answer now, kept while the model that they are part of trains on.

    Args:
        model: The model; of the modules on the tasks' paths a frozen copy is made.
        task_names: The tasks.

    Attributes:
        task_names: The tasks.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015; with the old self as the teacher: Li and
        Hoiem, Learning without Forgetting, 2016.

    Example:
        >>> from torch import nn
        >>> from mtl_core import Operation, Task
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> model = MultitaskClassifier([task], device=-1)
        >>> teacher, batch = Teacher(model, ["t"]), {"x": torch.ones(3, 4)}
        >>> round(teacher.losses(batch)["t"].item(), 6)
        0.0
        >>> _ = nn.init.zeros_(model.module_pool["head"].weight)
        >>> teacher.losses(batch)["t"].item() > 0
        True
    """

    def __init__(self, model: MultitaskClassifier, task_names: Iterable[str]) -> None:
        self.task_names = list(task_names)
        self._model = model
        on_path = {name for task in self.task_names for name in model.modules_of(task)}
        # In one copy, so that weights which modules share are still shared.
        self._modules = copy.deepcopy({name: model.module_pool[name] for name in sorted(on_path)})
        for module in self._modules.values():
            module.eval().requires_grad_(False)
            module.zero_grad()
        self._fields = {task: _fields_read(model, task) for task in self.task_names}

    def state_dict(self) -> dict[str, Any]:
        """Return the tasks, and the tensors of the frozen copy by module."""
        return {
            "tasks": self.task_names,
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
        }

    @classmethod
    def of_state(cls, model: MultitaskClassifier, state: Mapping[str, Any]) -> Teacher:
        """Return the teacher that :meth:`state_dict` was asked for, beside the model as it is by now."""
        teacher = cls(model, state["tasks"])
        for name, module in teacher._modules.items():
            module.load_state_dict(state["modules"][name])
        return teacher

    def losses(self, X_dict: Mapping[str, Any], labelled: Iterable[str] = ()) -> dict[str, torch.Tensor]:
        """Return how far the model's answers on a batch are from the teacher's.

        Args:
            X_dict: Fields by name, ``[n, …]``.
            labelled: The tasks whose own data the batch is from. A task that reads whatever fields there are is asked
                about no other.

        Returns:
            A scalar for each task whose fields the batch has, at least 0, with gradients for the model.
        """
        own = set(labelled)
        asked = [
            task
            for task, fields in self._fields.items()
            if (task in own if fields is None else fields <= X_dict.keys())
        ]
        if not asked:
            return {}
        fields = {name: values for name, values in X_dict.items() if name != WEIGHTS}
        with torch.no_grad():
            targets = self._model.plan.run(
                to_device(fields, self._model.device),
                asked,
                lambda name, inputs: self._modules[name](*inputs),
            )
        answers = self._model(fields, asked)
        return {
            task: distillation_loss(
                self._model.tasks[task].loss_func,
                answers[task, self._model.tasks[task].output_op],
                targets[self._model.plan.output_node(task)],
            )
            for task in asked
        }


def distillation_loss(loss_func: Loss | LossFunction, outputs: Any, targets: Any) -> torch.Tensor:
    """Return how far a task's outputs are from those of its teacher.

    Args:
        loss_func: The task's loss. With cross-entropy, and with binary cross-entropy, outputs are logits, and what
            counts is the divergence (Kullback and Leibler) from the teacher's probabilities; with all others it is the
            squared difference.
        outputs: What the task's path answers: a tensor ``[n, …]``, or a tuple or dict of tensors.
        targets: What the teacher answers, alike.

    Returns:
        The mean over the examples, a scalar; 0 where both answer the same.
    """
    match loss_func:
        case CrossEntropy():
            ours, theirs = F.log_softmax(outputs, dim=1), F.log_softmax(targets, dim=1)
            return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1).mean()
        case BinaryCrossEntropy():
            shares = targets.sigmoid()
            ours = F.binary_cross_entropy_with_logits(outputs, shares)
            return ours - F.binary_cross_entropy_with_logits(targets, shares)
        case _:
            pairs = zip(_floating(outputs), _floating(targets), strict=True)
            return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in pairs]).sum()


def _floating(outputs: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tensors(outputs, lambda tensor: found.append(tensor) if tensor.is_floating_point() else None)
    return found


def _fields_read(model: MultitaskClassifier, task_name: str) -> set[str] | None:
    """Return the fields that a task's path reads; None where it reads all that there are."""
    fields: set[str] = set()
    for index in model.plan.schedule([task_name]):
        for source in model.plan.nodes[index].sources:
            match source:
                case FieldInput(str() as name):
                    fields.add(name)
                case NodeInput():
                    pass
                case _:
                    return None
    return fields
