"""From losses to steps: gradients gathered over batches, looked at, clipped and followed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard, non_finite_gradients
from mtl_core.training.precision import Precision


class Stepper:
    """Gathers the gradients of some batches and takes one step along their mean.

    Args:
        model: What is trained.
        optimizer: Makes steps of gradients.
        precision: Scales losses, where that is needed.
        guard: Looks at the gradients.
        grad_clip: Greatest norm of all gradients together; 0 for none.
        average: Takes in the weights after every step.

    Attributes:
        optimizer: See above.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        guard: FinitenessGuard,
        grad_clip: float = 0.0,
        average: WeightAverage | None = None,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._precision = precision
        self._guard = guard
        self._grad_clip = grad_clip
        self._average = average
        self._forget()

    def add(self, losses: Mapping[str, torch.Tensor], position: BatchPosition) -> None:
        """Add the gradient of a batch's summed losses to those gathered.

        Without a labelled example, or a trainable parameter on the tasks' paths, there is none. If it is not finite
        and the guard lets that pass, the gradients gathered for the same step are lost with it.

        Args:
            losses: Scalars by task.
            position: The batch.

        Raises:
            NonFiniteLossError: If the gradient is not finite and the guard says to fail.
        """
        trainable = {task: loss for task, loss in losses.items() if loss.requires_grad}
        if not trainable:
            return
        self._precision.scaler.scale(torch.stack(list(trainable.values())).sum()).backward()
        self._gathered += 1
        self._norm = nn.utils.get_total_norm(self._gradients())
        norm = self._norm.item()
        # With float16 an overflow may be the scaler's doing: it passes the step over then, and scales less.
        if math.isfinite(norm) or self._precision.may_overflow:
            return
        if not self._guard.passes("gradient", dict.fromkeys(self._suspects(list(trainable)), norm), position):
            self._forget()

    def step(self) -> None:
        """Take one step along the mean of what was gathered, if anything was, and begin anew."""
        if not self._gathered:
            return
        scaler = self._precision.scaler
        norm = self._norm / (self._gathered * scaler.get_scale())
        scaler.unscale_(self.optimizer)
        if self._gathered > 1:
            for gradient in self._gradients():
                gradient.div_(self._gathered)
        if self._grad_clip:
            nn.utils.clip_grads_with_norm_(self._model.parameters(), self._grad_clip, norm)
        scaler.step(self.optimizer)
        scaler.update()
        self._forget()
        if self._average is not None:
            self._average.update()

    def _forget(self) -> None:
        self._model.zero_grad()
        self._gathered = 0
        self._norm = torch.zeros(())

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]

    def _suspects(self, task_names: list[str]) -> list[str]:
        """Return the tasks that have a module to themselves whose gradient is not finite, or all if there is none."""
        bad = set(non_finite_gradients(self._model))
        paths = {name: set(self._model.modules_of(name)) for name in task_names}
        suspects = [
            name
            for name, path in paths.items()
            if bad & path.difference(*(paths[other] for other in task_names if other != name))
        ]
        return suspects or task_names
