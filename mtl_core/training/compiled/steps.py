"""A training whose steps are programs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from torch import nn

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.batch_schedules import Draw
from mtl_core.training.compiled.buffers import Buffers
from mtl_core.training.compiled.feed import Feed
from mtl_core.training.compiled.flat_parameters import FlatParameters, Gradients
from mtl_core.training.compiled.layers import Call
from mtl_core.training.compiled.program import Program
from mtl_core.training.compiled.recipe import Recipe
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard, suspects
from mtl_core.training.optimizers import Optimizer, Span
from mtl_core.training.running_losses import RunningLosses

_PROGRAMS = 512


@dataclass
class _Bound:
    """A program with what follows it.

    Attributes:
        program: Computes losses and gradients.
        pairs: The tasks, each with the name of the dataset.
        counts: How many labels each task has, where none is missing; None where that differs by batch.
        update: Takes the optimizer's step.
    """

    program: Program
    pairs: list[tuple[str, str]]
    counts: list[float] | None
    update: Call

    def losses(self) -> list[float]:
        """Return each task's loss."""
        program = self.program
        sums = cast("list[float]", program.sums.tolist())
        counts = self.counts or cast("list[float]", program.counts.tolist())
        found = zip(sums, counts, program.means, strict=True)
        return [total / count if is_mean else total for total, count, is_mean in found]


class CompiledSteps:
    """Takes the steps of one training, each on a batch of one loader, without autograd.

    Args:
        model: What is trained.
        recipe: What it computes.
        loaders: What it is trained on.
        optimizer: Makes steps of gradients; its parameters are in the recipe's order.
        guard: Looks at losses and gradients.
        losses: Takes in the losses.
        grad_clip: Greatest norm of all gradients together; 0 for none.
        average: Takes in the weights after every step.

    Attributes:
        sources: What the batch schedule draws from, in the order of the loaders.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        recipe: Recipe,
        loaders: Sequence[Any],
        optimizer: Optimizer,
        guard: FinitenessGuard,
        losses: RunningLosses,
        grad_clip: float,
        average: WeightAverage | None,
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._optimizer = optimizer
        self._guard = guard
        self._losses = losses
        self._grad_clip = grad_clip
        self._average = average
        rows = max(loader.batch_size or 1 for loader in loaders)
        self._buffers = Buffers(rows, model.device)
        self.sources = [Feed(loader, recipe, self._buffers, key) for key, loader in enumerate(loaders)]
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._flat = FlatParameters(p for p in recipe.parameters() if id(p) in trained)
        self._kinds = self._kinds_of_parameters()
        # Clipping divides gradients by this, in the optimizer's kernel.
        self._divisor = torch.ones((), device=model.device)
        self._programs: dict[Any, _Bound] = {}
        self._ready: tuple[_Bound, float] | None = None

    def take_in(self, draws: Sequence[Any], position: BatchPosition) -> int:
        """Compute losses and gradients of a batch, unless a loss or the gradient is not finite.

        Returns:
            How many examples it has.
        """
        [(part, feed)] = draws
        self._guard.before(self._model)
        n = feed.n_examples(part)
        feed.load(part, n)
        n_labelled = feed.n_labelled(n) if feed.partly else None
        bound = self._program(feed, n, n_labelled)
        for call in bound.program.calls:
            call()
        losses = bound.losses()
        if not math.isfinite(sum(losses)):
            by_task = dict(zip(bound.program.tasks, losses, strict=True))
            if not self._guard.passes("loss", by_task, position):
                return n
        counts = [n] * len(losses) if n_labelled is None else [n_labelled[task] for task, _ in bound.pairs]
        means = zip(losses, counts, bound.program.means, strict=True)
        self._losses.add_all(bound.pairs, [of if is_mean else of / k for of, k, is_mean in means], counts)
        gradient = bound.program.gradients.all
        norm = math.sqrt(torch.dot(gradient, gradient))
        if math.isfinite(norm) or self._passes(bound.program, norm, position):
            self._ready = bound, norm
        return n

    def step(self, draws: Sequence[Draw]) -> None:
        """Take a step along the gradient that was taken in, if there is one."""
        if self._ready is None:
            return
        (bound, norm), self._ready = self._ready, None
        if self._grad_clip:
            self._divisor.fill_(max(1.0, (norm + 1e-6) / self._grad_clip))
        bound.update()
        if self._average is not None:
            self._average.update()

    def close(self) -> None:
        """Give every parameter memory of its own again."""
        self._flat.release()

    def _passes(self, program: Program, norm: float, position: BatchPosition) -> bool:
        for parameter in program.gradients.parameters:
            parameter.grad = program.gradients.of([parameter])
        bad = suspects(self._model, program.tasks)
        for parameter in program.gradients.parameters:
            parameter.grad = None
        return self._guard.passes("gradient", dict.fromkeys(bad, norm), position)

    def _program(self, feed: Feed, n: int, n_labelled: Mapping[str, int] | None) -> _Bound:
        key = (feed, n, None if n_labelled is None else tuple(n_labelled))
        bound = self._programs.get(key)
        if bound is None:
            if len(self._programs) >= _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            bound = self._programs[key] = self._bind(
                feed, n, feed.tasks if n_labelled is None else n_labelled
            )
        return bound

    @torch.no_grad()
    def _bind(self, feed: Feed, n: int, tasks: Collection[str]) -> _Bound:
        labels = feed.labels(n)
        schedule = self._model.plan.schedule(tasks)
        program = Program(self._recipe, schedule, feed.fields(n), labels, tasks, self._flat, self._buffers)
        is_masked = any(of.masked for of in labels.values())
        counts = None if is_masked else cast("list[float]", program.counts.tolist())
        divisor = self._divisor if self._grad_clip else None
        update = self._optimizer.bound(self._spans(program.gradients), divisor)
        return _Bound(program, [(task, feed.dataset.name) for task in program.tasks], counts, update)

    def _spans(self, gradients: Gradients) -> list[Span]:
        """Return parameters that lie side by side and are always stepped together, each such run as one."""
        spans: list[Span] = []
        places = enumerate(self._flat.parameters)
        chosen = [(place, parameter) for place, parameter in places if parameter in gradients]
        runs = groupby(enumerate(chosen), lambda of: (of[1][0] - of[0], self._kinds[of[1][1]]))
        for _, run in runs:
            parameters = [parameter for _, (_, parameter) in run]
            spans.append(Span(parameters, self._flat.values(parameters), gradients.span(parameters)))
        return spans

    def _kinds_of_parameters(self) -> dict[nn.Parameter, object]:
        """Return by parameter what two have in common that are always stepped together, in one group."""
        groups = {
            parameter: (number, self._optimizer.n_steps(parameter))
            for number, group in enumerate(self._optimizer.param_groups)
            for parameter in group["params"]
        }
        kinds: dict[nn.Parameter, object] = {}
        for parameter, tasks in self._recipe.tasks_of_parameters().items():
            if parameter in self._flat:
                by_loader = [
                    not tasks.isdisjoint(set(feed.tasks) - feed.partly) or frozenset(tasks & feed.partly)
                    for feed in self.sources
                ]
                kinds[parameter] = (groups[parameter], *by_loader)
        return kinds
