"""The part of a step that autograd computes: operations before the heads, and losses that are not among the known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtl_core.data import is_labelled
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.devices import call
from mtl_core.model.task_loss import task_loss
from mtl_core.training.compiled.feed import Feed, Part
from mtl_core.training.compiled.recipe import Place, Recipe


class Outside:
    """Runs a batch up to the heads, and takes the gradients of what they read further back.

    Args:
        model: The model.
        recipe: Has the heads.
        parameters: What is trained of the model but for the heads.
    """

    def __init__(
        self, model: MultitaskClassifier, recipe: Recipe, parameters: Iterable[nn.Parameter]
    ) -> None:
        self._model = model
        self._parameters = list(parameters)
        self._heads = {model.plan.output_node(task) for group in recipe.groups for task in group.tasks}
        self._computed: dict[int, Any] = {}
        self._losses: dict[str, tuple[torch.Tensor, int]] = {}

    def nodes(self, tasks: Collection[str]) -> list[int]:
        """Return the nodes that some tasks need, without heads."""
        return self._model.plan.schedule(tasks, without=self._heads)

    def forward(
        self, feed: Feed, part: Part, nodes: Sequence[int], places: Mapping[Place, torch.Tensor]
    ) -> bool:
        """Compute nodes, and put the outputs that heads read into places.

        Returns:
            Whether all of them are of their places' shapes, float32 ``[n, d]``.
        """
        fields, labels = feed.batch(part)
        pool = self._model.module_pool
        self._computed = self._model.plan.execute(
            nodes, fields, lambda name, inputs: call(pool[name], inputs)
        )
        for place, buffer in places.items():
            if isinstance(place, int):
                value = self._computed[place]
                if not _is_like(value, buffer):
                    return False
                buffer.copy_(value.detach())
        self._losses = {}
        for task in feed.others:
            labelled = is_labelled(labels[task])
            if count := int(labelled.sum()):
                output = self._computed[self._model.plan.output_node(task)]
                some = labelled if count < len(labelled) else None
                loss = task_loss(self._model.tasks[task], output, labels[task], some)
                self._losses[task] = loss, count
        return True

    def losses(self) -> Mapping[str, tuple[torch.Tensor, int]]:
        """Return the losses of the other tasks on the batch, and how many examples are labelled for each."""
        return self._losses

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
            torch.autograd.backward(values, of_values)
        self._computed, self._losses = {}, {}
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def forget(self) -> None:
        """Take the gradients off the parameters."""
        for parameter in self._parameters:
            parameter.grad = None


def _is_like(value: Any, buffer: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == buffer.shape and value.dtype == buffer.dtype
