"""A training whose gradients autograd computes: any network, any loss, any way of balancing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.cut import Cut
from mtl_core.training.balancing import Balancer
from mtl_core.training.batch_schedules import Draw
from mtl_core.training.device_batches import BatchSource
from mtl_core.training.early_stopping import Stopper
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard
from mtl_core.training.precision import Precision
from mtl_core.training.running_losses import RunningLosses
from mtl_core.training.step_losses import batch_losses, n_examples, task_losses
from mtl_core.training.stepping import Stepper


class AutogradSteps:
    """Takes the steps of one training.

    Args:
        model: What is trained.
        sources: What it is trained on.
        stopper: Knows which tasks have peaked.
        precision: What the forward pass computes in.
        guard: Looks at losses.
        losses: Takes in the losses.
        balancer: Makes one gradient of the tasks' losses.
        stepper: Gathers gradients and follows them.

    Attributes:
        sources: What the batch schedule draws from, as it was given.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        sources: Sequence[BatchSource],
        stopper: Stopper,
        precision: Precision,
        guard: FinitenessGuard,
        losses: RunningLosses,
        balancer: Balancer,
        stepper: Stepper,
    ) -> None:
        self.sources = list(sources)
        self._model = model
        self._stopper = stopper
        self._precision = precision
        self._guard = guard
        self._losses = losses
        self._balancer = balancer
        self._stepper = stepper

    def take_in(self, draws: Sequence[Draw], position: BatchPosition) -> int:
        """Compute the losses of some batches and gather their gradient, unless a loss is not finite.

        Returns:
            How many examples they have.
        """
        self._guard.before(self._model)
        cut = Cut() if self._balancer.cuts else None
        with self._precision.autocast():
            jointly = not (self._balancer.needs_task_gradients or self._balancer.cuts)
            batches = batch_losses(self._model, self._stopper, draws, cut, jointly=jointly)
            losses = task_losses(self._model.tasks, batches)
        if all(self._guard.passes("loss", batch.values, position.of(batch.dataset)) for batch in batches):
            self._losses.add_step(batches, self._model.tasks)
            self._stepper.add(losses, position, cut)
        return n_examples(draws)

    def step(self, draws: Sequence[Draw]) -> None:
        """Take a step along what was gathered, and show its effect on the last batches to a balancer that asks."""
        if self._stepper.step() and self._balancer.wants_losses_again:
            self._balancer.after_step(partial(self._losses_again, draws))

    def close(self) -> None:
        """Do nothing: the parameters are where they were."""

    def _losses_again(self, draws: Sequence[Draw]) -> dict[str, torch.Tensor]:
        with torch.no_grad(), self._precision.autocast():
            return task_losses(self._model.tasks, batch_losses(self._model, self._stopper, draws))
