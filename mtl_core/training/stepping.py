"""From losses to steps: gradients gathered over batches, looked at, clipped and followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.cut import Cut
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.balancing import Balancer
from mtl_core.training.balancing.loss_weightings import Sum
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard, suspects
from mtl_core.training.optimizers import Optimizer
from mtl_core.training.precision import Precision

# So many numbers are read one by one in less time than they are put together.
_FEW = 16


class Stepper:
    """Gathers the gradients of some batches and takes one step along their mean.

    Args:
        model: What is trained.
        optimizer: Makes steps of gradients.
        precision: Scales losses, where that is needed.
        guard: Looks at the gradients.
        grad_clip: Greatest norm of all gradients together; 0 for none.
        average: Takes in the weights after every step.
        balancer: Makes one gradient of the tasks' losses; default: that of their sum.

    Attributes:
        optimizer: See above.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        optimizer: Optimizer,
        precision: Precision,
        guard: FinitenessGuard,
        grad_clip: float = 0.0,
        average: WeightAverage | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        self._model = model
        self.optimizer = optimizer
        self._precision = precision
        self._guard = guard
        self._grad_clip = grad_clip
        self._average = average
        self._balancer = balancer or Sum()
        # Modules may be frozen later, but none begins to train.
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._forget()

    def add(
        self, losses: Mapping[str, torch.Tensor], position: BatchPosition, cut: Cut | None = None
    ) -> None:
        """Add the gradient that balancing makes of a step's losses to those gathered.

        Without a labelled example, or a trainable parameter on the tasks' paths, there is none. If it is not finite
        and the guard lets that pass, the gradients gathered for the same step are lost with it.

        Args:
            losses: Scalars by task.
            position: The batch.
            cut: What the tasks share, where the losses' graph begins behind it; default: it is whole.

        Raises:
            NonFiniteLossError: If the gradient is not finite and the guard says to fail.
        """
        trainable = {task: loss for task, loss in losses.items() if loss.requires_grad}
        if not trainable:
            return
        self._balancer.backward(trainable, cut, self._precision.scaler.scale)
        self._gathered += 1
        norm = self._norm = norm_of(self._gradients())
        # With float16 an overflow may be the scaler's doing: it passes the step over then, and scales less.
        if math.isfinite(norm) or self._precision.may_overflow:
            return
        if not self._guard.passes(
            "gradient", dict.fromkeys(suspects(self._model, list(trainable)), norm), position
        ):
            self._forget()

    def step(self) -> bool:
        """Take one step along the mean of what was gathered and begin anew; say whether anything was gathered."""
        if not self._gathered:
            return False
        scaler = self._precision.scaler
        norm = self._norm / (self._gathered * scaler.get_scale())
        scaler.unscale_(cast("Any", self.optimizer))
        if self._gathered > 1:
            for gradient in [*self._gradients(), *self._balancer_gradients()]:
                gradient.div_(self._gathered)
        if self._grad_clip and norm > self._grad_clip:
            scale(self._gradients(), self._grad_clip / (norm + 1e-6))
        scaler.step(cast("Any", self.optimizer))
        scaler.update()
        self._forget()
        if self._average is not None:
            self._average.update()
        return True

    def _forget(self) -> None:
        for parameter in (*self._parameters, *self._balancer.parameters().values()):
            parameter.grad = None
        self._gathered = 0
        self._norm = 0.0

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _balancer_gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self._balancer.parameters().values() if p.grad is not None]


def norm_of(gradients: list[torch.Tensor]) -> float:
    """Return the norm of all gradients together."""
    if len({gradient.device for gradient in gradients}) > 1:
        return nn.utils.get_total_norm(gradients).item()
    foreach_norm: Any = torch._foreach_norm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    norms = cast("list[torch.Tensor]", foreach_norm(gradients))
    if len(norms) <= _FEW and norms[0].device.type == "cpu":
        return math.hypot(*(norm.item() for norm in norms))
    together = torch.stack(norms)
    return math.sqrt(torch.dot(together, together).item())


def scale(gradients: list[torch.Tensor], factor: float) -> None:
    """Multiply gradients by a factor."""
    torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
