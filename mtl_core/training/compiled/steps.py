"""A training whose steps are programs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from mtl_core.data import DictDataLoader
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.autograd_steps import AutogradSteps
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.compiled.buffers import Buffers
from mtl_core.training.compiled.feed import Feed
from mtl_core.training.compiled.flat_parameters import FlatParameters, Gradients
from mtl_core.training.compiled.layers import Call
from mtl_core.training.compiled.outside import Outside
from mtl_core.training.compiled.program import Program
from mtl_core.training.compiled.recipe import Place, Recipe
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard, suspects
from mtl_core.training.optimizers import Optimizer, Span
from mtl_core.training.running_losses import RunningLosses
from mtl_core.training.stepping import norm_of

_PROGRAMS = 512


@dataclass
class _Bound:
    """A program with what goes with it.

    Attributes:
        program: Computes losses and gradients.
        pairs: The tasks, each with the name of the dataset.
        counts: How many labels each task has, where none is missing; None where that differs by batch.
        tasks: The program's tasks.
        handed: Where the program reads what autograd computed, by node.
        update: Takes the optimizer's step.
    """

    program: Program
    pairs: list[tuple[str, str]]
    counts: list[float] | None
    tasks: tuple[str, ...]
    handed: dict[int, torch.Tensor]
    update: Call

    def losses(self) -> list[float]:
        """Return each task's loss."""
        program = self.program
        sums = cast("list[float]", program.sums.tolist())
        counts = self.counts or cast("list[float]", program.counts.tolist())
        found = zip(sums, counts, program.means, strict=True)
        return [total / count if is_mean else total for total, count, is_mean in found]


class CompiledSteps:
    """Takes the steps of one training, each on a batch of one loader, without autograd or with little of it.

    Args:
        model: What is trained.
        recipe: What it computes.
        loaders: What it is trained on.
        optimizer: Makes steps of gradients; its parameters are in the recipe's order.
        guard: Looks at losses and gradients.
        losses: Takes in the losses.
        grad_clip: Greatest norm of all gradients together; 0 for none.
        average: Takes in the weights after every step.
        plain: Takes those steps in which an operation answers something else than one vector for each example.

    Attributes:
        sources: What the batch schedule draws from, in the order of the loaders.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        recipe: Recipe,
        loaders: Sequence[DictDataLoader],
        optimizer: Optimizer,
        guard: FinitenessGuard,
        losses: RunningLosses,
        grad_clip: float,
        average: WeightAverage | None,
        plain: AutogradSteps,
    ) -> None:
        self._model = model
        self._recipe = recipe
        self._optimizer = optimizer
        self._guard = guard
        self._losses = losses
        self._grad_clip = grad_clip
        self._average = average
        self._plain = plain
        rows = max(loader.batch_size or 1 for loader in loaders)
        self._buffers = Buffers(rows, model.device)
        self.sources = [Feed(loader, recipe, self._buffers, key) for key, loader in enumerate(loaders)]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        among = {id(p) for p in trained}
        self._flat = FlatParameters(p for p in recipe.parameters() if id(p) in among)
        left = (p for p in trained if p not in self._flat)
        self._outside = Outside(model, recipe, left) if recipe.outside else None
        self._kinds = self._kinds_of_parameters()
        # Clipping divides gradients by this, in the optimizer's kernel.
        self._divisor = torch.ones((), device=model.device)
        self._programs: dict[Any, _Bound] = {}
        self._ready: _Bound | None = None
        self._in_batch: list[str] = []
        self._is_plain = False

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
        program = bound.program
        if self._outside and not self._outside.forward(feed, part, bound.tasks, bound.handed):
            self._is_plain = True
            return self._plain.take_in([(feed.whole(part), feed)], position)
        for call in program.calls:
            call()
        counts = (
            [n] * len(bound.pairs) if n_labelled is None else [n_labelled[task] for task, _ in bound.pairs]
        )
        if self._add(feed, bound, counts, position):
            self._look_at_gradients(bound, position)
        return n

    def step(self, draws: Sequence[Any]) -> None:
        """Take a step along the gradient that was taken in, if there is one."""
        if self._is_plain:
            self._is_plain = False
            self._plain.step(draws)
        elif self._ready is not None:
            self._ready.update()
            self._ready = None
            if self._outside:
                self._outside.forget()
            if self._average is not None:
                self._average.update()

    def close(self) -> None:
        """Give every parameter memory of its own again."""
        self._flat.release()

    def _add(self, feed: Feed, bound: _Bound, counts: list[int], position: BatchPosition) -> bool:
        """Take in the losses of a batch, and say whether all are finite."""
        losses, dataset = bound.losses(), feed.dataset.name
        others = self._outside.losses() if self._outside else []
        if not math.isfinite(sum(losses) + sum(other.mean for other in others)):
            by_task = dict(zip(bound.program.tasks, losses, strict=True))
            by_task |= {other.task: other.mean for other in others}
            if not self._guard.passes("loss", by_task, position):
                return False
        by_example = zip(losses, counts, bound.program.means, strict=True)
        means = [of if is_mean else of / n for of, n, is_mean in by_example]
        self._losses.add_all(bound.pairs, means, counts)
        for other in others:
            self._losses.add_all([(other.task, dataset)], [other.mean], [other.n])
        self._in_batch = [*bound.program.tasks, *(other.task for other in others)]
        return True

    def _look_at_gradients(self, bound: _Bound, position: BatchPosition) -> None:
        """Get ready for a step along the gradients, if they are finite."""
        program = bound.program
        gradient = program.gradients.all
        if self._outside:
            norm = norm_of([gradient, *self._outside.backward(program.gradients_of_given)])
        else:
            square = torch.dot(gradient, gradient).item()
            norm = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(norm) and not self._passes(program, norm, position):
            return
        if self._grad_clip:
            self._divisor.fill_(max(1.0, (norm + 1e-6) / self._grad_clip))
        self._ready = bound

    def _passes(self, program: Program, norm: float, position: BatchPosition) -> bool:
        for parameter in program.gradients.parameters:
            parameter.grad = program.gradients.of([parameter])
        bad = suspects(self._model, self._in_batch)
        for parameter in program.gradients.parameters:
            parameter.grad = None
        passes = self._guard.passes("gradient", dict.fromkeys(bad, norm), position)
        if self._outside:
            self._outside.forget()
        return passes

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
        handed: dict[int, torch.Tensor] = {}
        if self._outside:
            handed = {
                place: self._buffers.rows(("outside", place), n, [self._recipe.widths[place]])
                for place in self._recipe.sources_of(tasks)
                if isinstance(place, int)
            }
        values: dict[Place, torch.Tensor] = {**feed.fields(n), **handed}
        schedule = self._model.plan.schedule(tasks)
        program = Program(self._recipe, schedule, n, values, labels, tasks, self._flat, self._buffers)
        is_masked = any(of.masked for of in labels.values())
        counts = None if is_masked else cast("list[float]", program.counts.tolist())
        divisor = self._divisor if self._grad_clip else None
        others = self._outside.parameters if self._outside else ()
        update = self._optimizer.bound(self._spans(program.gradients), divisor, others)
        pairs = [(task, feed.dataset.name) for task in program.tasks]
        return _Bound(program, pairs, counts, tuple(program.tasks), handed, update)

    def _spans(self, gradients: Gradients) -> list[Span]:
        """Return parameters that lie side by side and are always stepped together, each such run as one."""
        runs: list[list[nn.Parameter]] = []
        for parameter in gradients.parameters:
            last = runs[-1][-1] if runs else None
            goes_on = last is not None and self._flat.follows(parameter, last)
            if last is not None and goes_on and self._kinds[parameter] == self._kinds[last]:
                runs[-1].append(parameter)
            else:
                runs.append([parameter])
        return [Span(run, self._flat.values(run), gradients.span(run)) for run in runs]

    def _kinds_of_parameters(self) -> dict[nn.Parameter, object]:
        """Return by parameter what two have in common that are always stepped together, in one group."""
        always: dict[nn.Parameter, list[int]] = {parameter: [] for parameter in self._flat.parameters}
        sometimes: dict[nn.Parameter, list[tuple[int, str]]] = {p: [] for p in always}
        of_tasks = self._recipe.parameters_of_tasks()
        for number, feed in enumerate(self.sources):
            for task in feed.tasks:
                for parameter in of_tasks[task]:
                    if parameter not in always:
                        continue
                    if task in feed.partly:
                        sometimes[parameter].append((number, task))
                    elif number not in always[parameter][-1:]:
                        always[parameter].append(number)
        kinds: dict[nn.Parameter, object] = {}
        for number, group in enumerate(self._optimizer.param_groups):
            for parameter in group["params"]:
                if parameter in always:
                    whole = tuple(always[parameter])
                    partly = tuple(of for of in sometimes[parameter] if of[0] not in whole)
                    alone = None if self._optimizer.keeps_side_by_side(parameter) else parameter
                    kinds[parameter] = number, alone, self._optimizer.n_steps(parameter), whole, partly
        return kinds
