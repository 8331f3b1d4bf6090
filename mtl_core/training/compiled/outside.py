"""The part of a step that autograd computes: operations before the heads, and losses that are not among the known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from mtl_core.data import is_labelled
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.task_loss import mean_loss, task_loss
from mtl_core.training.compiled.feed import Feed, Part
from mtl_core.training.compiled.recipe import Recipe

_SCHEDULES_KEPT = 512
# Of torch.autograd.backward it leaves out a look at the gradients' shapes, which imports sympy and takes a good part of
# the time that a small network's backward pass takes.
_run_backward: Any = torch.autograd.graph._engine_run_backward  # pyright: ignore[reportPrivateUsage]


class OtherLoss(NamedTuple):
    """A loss that autograd computes: the task, the mean over its labelled examples, and how many those are."""

    task: str
    mean: float
    n: int


class Outside:
    """Runs a batch up to the heads, and takes the gradients of what they read further back.

    Args:
        model: The model.
        recipe: Has the heads.
        parameters: What is trained of the model but for the heads.

    Attributes:
        parameters: See above.
    """

    def __init__(
        self, model: MultitaskClassifier, recipe: Recipe, parameters: Iterable[nn.Parameter]
    ) -> None:
        self._model = model
        self.parameters = list(parameters)
        self._heads = {model.plan.output_node(task) for group in recipe.groups for task in group.tasks}
        self._modules = dict(model.module_pool.items())
        self._schedules: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
        self._computed: dict[int, Any] = {}
        self._losses: dict[str, tuple[torch.Tensor, int]] = {}

    def forward(
        self, feed: Feed, part: Part, tasks: tuple[str, ...], places: Mapping[int, torch.Tensor]
    ) -> bool:
        """Compute what tasks need, and put the outputs that their heads read into places.

        Args:
            feed: Has the batch.
            part: The batch.
            tasks: The tasks with compiled heads that have a label in the batch.
            places: Where the heads read, by node.

        Returns:
            Whether all outputs are of their places' shapes, float32 ``[n, d]``.
        """
        fields, labels = feed.batch(part)
        masks = {task: is_labelled(labels[task]) for task in feed.others}
        counts = {task: count for task, mask in masks.items() if (count := int(mask.sum()))}
        self._computed = self._model.plan.execute(self._nodes(tasks, tuple(counts)), fields, self._call)
        for node, buffer in places.items():
            value = self._computed[node]
            if not _is_like(value, buffer):
                return False
            buffer.copy_(value.detach())
        self._losses = {}
        for task, count in counts.items():
            output = self._computed[self._model.plan.output_node(task)]
            some = masks[task] if count < len(masks[task]) else None
            self._losses[task] = task_loss(self._model.tasks[task], output, labels[task], some), count
        return True

    def _nodes(self, tasks: tuple[str, ...], others: tuple[str, ...]) -> list[int]:
        nodes = self._schedules.get((tasks, others))
        if nodes is None:
            if len(self._schedules) >= _SCHEDULES_KEPT:
                self._schedules.clear()
            nodes = self._model.plan.schedule((*tasks, *others), without=self._heads)
            self._schedules[tasks, others] = nodes
        return nodes

    def _call(self, name: str, inputs: list[Any]) -> Any:
        return self._modules[name](*inputs)

    def losses(self) -> list[OtherLoss]:
        """Return the losses of the other tasks on the batch."""
        return [
            OtherLoss(task, mean_loss(self._model.tasks[task], loss.item(), count), count)
            for task, (loss, count) in self._losses.items()
        ]

    def backward(self, gradients: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        """Go back from what the heads read, whose gradients are given, and from the losses.

        Returns:
            The gradients that parameters have now.
        """
        roots = [(self._computed[place], gradient) for place, gradient in gradients.items()]
        roots += [(loss, torch.ones_like(loss)) for loss, _ in self._losses.values()]
        wanted = [(value, gradient) for value, gradient in roots if value.requires_grad]
        if wanted:
            values, of_values = zip(*wanted, strict=True)
            _run_backward(values, of_values, False, False, (), allow_unreachable=True, accumulate_grad=True)
        self._computed, self._losses = {}, {}
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def forget(self) -> None:
        """Take the gradients off the parameters."""
        for parameter in self.parameters:
            parameter.grad = None


def _is_like(value: Any, buffer: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == buffer.shape and value.dtype == buffer.dtype
