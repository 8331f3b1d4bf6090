"""One training step as a list of calls: for one loader, one number of examples and one set of labelled tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from mtl_core.training.compiled.buffers import Buffers
from mtl_core.training.compiled.flat_parameters import FlatParameters, Gradients
from mtl_core.training.compiled.layers import (
    Affine,
    Backward,
    Call,
    Layer,
    bias_gradient,
    weight_gradient,
)
from mtl_core.training.compiled.losses import Losses
from mtl_core.training.compiled.recipe import Place, Recipe, Stage, TaskGroup


@dataclass(frozen=True)
class GroupLabels:
    """The labels of a group's tasks in a batch.

    Attributes:
        labels: ``[t, n, …]``, by the order of the tasks.
        tasks: Those of the group's tasks that the loader has labels of.
        masked: Whether some may be missing.
    """

    labels: torch.Tensor
    tasks: tuple[str, ...]
    masked: bool


class Program:
    """The calls of one step, up to the gradients.

    Args:
        recipe: What is computed.
        schedule: The nodes that the tasks need.
        n: How many examples the batch has.
        values: What is computed already, ``[n, d]``: the batch by field, and what autograd computed by node.
        labels: The batch's labels by number of the group.
        tasks: The tasks that have a label in the batch.
        flat: The trained parameters.
        buffers: Memory.

    Attributes:
        calls: To be made in order.
        tasks: The tasks, in the order of the losses.
        sums: The sum of each task's losses over its labels, ``[t]``, after the calls.
        counts: How many labels each has, ``[t]``.
        means: Whether the loss of each is the mean over its labels rather than their sum.
        gradients: The gradients of the parameters that the tasks depend on.
        gradients_of_given: Where the gradients of what autograd computed are found afterwards, by node.
    """

    def __init__(
        self,
        recipe: Recipe,
        schedule: Sequence[int],
        n: int,
        values: Mapping[Place, torch.Tensor],
        labels: Mapping[int, GroupLabels],
        tasks: Collection[str],
        flat: FlatParameters,
        buffers: Buffers,
    ) -> None:
        self._buffers = buffers
        self._flat = flat
        self._values = dict(values)
        self._n = n
        self._filled: set[Place] = set()
        self.calls: list[Call] = []
        self.tasks: list[str] = []
        self.means: list[bool] = []
        stages = [recipe.stages[node] for node in schedule if node in recipe.stages]
        groups = [
            (number, group, chosen)
            for number, group in enumerate(recipe.groups)
            if number in labels and (chosen := tuple(task for task in labels[number].tasks if task in tasks))
        ]
        n_tasks = sum(len(chosen) for _, _, chosen in groups)
        self.sums, self.counts = flat.values(flat.parameters[:1]).new_zeros(2, n_tasks)
        self._widths = recipe.widths
        self._trained = self._with_gradient(stages)
        layers = [*(layer for stage in stages for layer in stage.layers)]
        layers += [head for _, group, chosen in groups for head in group.heads_of(chosen)]
        self.gradients = flat.gradients(p for layer in layers for p in layer.parameters())
        made = [_Run(stage, self._inputs(stage)) for stage in stages]
        for run in made:
            self.calls += run.forward(buffers)
        for number, group, chosen in groups:
            self.calls += self._of_group(number, group, chosen, labels[number])
        for run in reversed(made):
            self.calls += self._backward(run)
        self.gradients_of_given = {
            place: self._gradient_of(place)
            for place in values
            if isinstance(place, int) and place in self._filled
        }

    def _with_gradient(self, stages: Sequence[Stage]) -> set[Place]:
        """Return the nodes whose output may depend on a trained parameter."""
        found: set[Place] = {place for place in self._values if isinstance(place, int)}
        for stage in stages:
            own = any(p in self._flat for layer in stage.layers for p in layer.parameters())
            if own or stage.source in found:
                found.add(stage.node)
        return found

    def _inputs(self, stage: Stage) -> list[torch.Tensor]:
        """Return a stage's input, what each of its layers puts out, in place where that is possible."""
        chain = [self._values[stage.source]]
        # What others read, or the batch itself, is not to be overwritten.
        is_own = False
        before: Layer | None = None
        for index, layer in enumerate(stage.layers):
            if layer.in_place and is_own and not (before and before.reads_output):
                chain.append(chain[-1])
            else:
                shape = [stage.widths[index + 1]]
                chain.append(self._buffers.rows((stage.node, index), self._n, shape))
            is_own, before = True, layer
        self._values[stage.node] = chain[-1]
        return chain

    def _of_group(
        self, number: int, group: TaskGroup, chosen: tuple[str, ...], of: GroupLabels
    ) -> Iterator[Call]:
        """Yield what computes the losses of a group's tasks, and all gradients up to the group's source."""
        labels = of.labels
        if chosen != of.tasks:
            places = {task: place for place, task in enumerate(of.tasks)}
            rows = torch.tensor([places[task] for task in chosen], device=labels.device)
            few = self._buffers.fixed(
                (number, "few", self._n, len(chosen)), [len(chosen), *labels.shape[1:]], labels.dtype
            )
            yield partial(torch.index_select, labels, 0, rows, out=few)
            labels = few
        key = (number, len(chosen))
        place = slice(len(self.tasks), len(self.tasks) + len(chosen))
        sums, counts = self.sums[place], self.counts[place]
        counts.fill_(labels[0].numel())
        self.tasks += chosen
        self.means += [group.kind.reduction == "mean"] * len(chosen)
        source = self._values[group.source]
        if group.heads is None:
            losses = Losses(group.kind, source.t(), labels, of.masked, sums, counts, self._buffers, key)
            yield from losses.calls()
            if group.source in self._trained:
                yield from self._into(group.source, lambda place: [partial(place.copy_, losses.gradient.t())])
        else:
            joined = _Joined(group.heads_of(chosen), self._flat, self._buffers, number)
            outputs = self._buffers.fixed((key, "outputs"), [group.width * len(chosen), self._n])
            losses = Losses(group.kind, outputs, labels, of.masked, sums, counts, self._buffers, key)
            yield from joined.forward(source, outputs)
            yield from losses.calls()
            yield from joined.backward(source, losses.gradient.t(), self.gradients)
            if group.source in self._trained:
                yield from self._product_into(group.source, losses.gradient.t(), joined.weight)

    def _backward(self, run: _Run) -> Iterator[Call]:
        """Yield what computes the gradients of a stage's parameters, and of its source where that is wanted."""
        stage = run.stage
        if stage.node not in self._trained:
            return
        gradient = self._gradient_of(stage.node)
        wanted = [stage.source in self._trained]
        for layer in stage.layers:
            wanted.append(wanted[-1] or any(p in self._flat for p in layer.parameters()))
        for index in range(len(stage.layers) - 1, -1, -1):
            layer = stage.layers[index]
            x, y = run.chain[index], run.chain[index + 1]
            at = Backward(x, y, gradient, None, self._buffers, self.gradients)
            if not wanted[index]:
                yield from layer.backward(at)
                return
            if index == 0:
                yield from self._through_first(layer, at, stage.source)
                return
            target = (
                gradient
                if layer.in_place
                else self._buffers.rows((stage.node, index, "gradient"), self._n, [stage.widths[index]])
            )
            yield from layer.backward(replace(at, dx=target))
            gradient = target
        # A stage without layers hands its source on.
        if wanted[0]:
            yield from self._into(stage.source, lambda place: [partial(place.copy_, gradient)])

    def _through_first(self, layer: Layer, at: Backward, source: Place) -> Iterator[Call]:
        """Yield a backward pass through a stage's first layer, whose input others may read, too."""
        if isinstance(layer, Affine):
            yield from layer.backward(at)
            yield from self._product_into(source, at.dy, layer.weight.detach())
        else:
            yield from self._into(source, lambda place: layer.backward(replace(at, dx=place)))

    def _gradient_of(self, place: Place) -> torch.Tensor:
        return self._buffers.rows((place, "gradient"), self._n, [self._widths[place]])

    def _product_into(self, place: Place, dy: torch.Tensor, weight: torch.Tensor) -> Iterator[Call]:
        """Yield what puts ``dy · weight`` into the gradient of a value, or adds it."""
        gradient = self._gradient_of(place)
        if place in self._filled:
            yield partial(torch.addmm, gradient, dy, weight, out=gradient)
        else:
            self._filled.add(place)
            yield partial(torch.mm, dy, weight, out=gradient)

    def _into(self, place: Place, put: Callable[[torch.Tensor], Iterable[Call]]) -> Iterator[Call]:
        """Yield what puts something into the gradient of a value, or adds it."""
        gradient = self._gradient_of(place)
        if place in self._filled:
            more = self._buffers.rows((place, "more"), self._n, gradient.shape[1:])
            yield from put(more)
            yield partial(gradient.add_, more)
        else:
            self._filled.add(place)
            yield from put(gradient)


@dataclass(frozen=True)
class _Run:
    """A stage with its input and what each of its layers puts out."""

    stage: Stage
    chain: list[torch.Tensor]

    def forward(self, buffers: Buffers) -> Iterator[Call]:
        for layer, x, y in zip(self.stage.layers, self.chain, self.chain[1:], strict=False):
            yield from layer.forward(x, y, buffers)


class _Joined:
    """Some heads of a group as one: where they lie side by side as they are, elsewhere copied together."""

    def __init__(self, heads: Sequence[Affine], flat: FlatParameters, buffers: Buffers, key: object) -> None:
        self._weights = [head.weight for head in heads]
        self._biases = [head.bias for head in heads if head.bias is not None]
        self._flat = flat
        self._buffers = buffers
        self._key = (key, len(heads))
        self._copies: list[Call] = []
        self.weight = self._as_one(self._weights, "weight")
        self.bias = self._as_one(self._biases, "bias") if self._biases else None

    def _as_one(self, parameters: Sequence[nn.Parameter], name: str) -> torch.Tensor:
        tail = parameters[0].shape[1:]
        if self._flat.are_consecutive(parameters):
            return self._flat.values(parameters).view(-1, *tail)
        copy = self._buffers.fixed((self._key, name), [sum(map(len, parameters)), *tail])
        self._copies.append(partial(torch.cat, [parameter.detach() for parameter in parameters], out=copy))
        return copy

    def forward(self, x: torch.Tensor, outputs: torch.Tensor) -> Iterator[Call]:
        """Yield what puts the heads' outputs for ``x [n, d]`` into ``[sum of widths, n]``."""
        yield from self._copies
        if self.bias is None:
            yield partial(torch.mm, self.weight, x.t(), out=outputs)
        else:
            yield partial(torch.addmm, self.bias.unsqueeze(1), self.weight, x.t(), out=outputs)

    def backward(self, x: torch.Tensor, dy: torch.Tensor, gradients: Gradients) -> Iterator[Call]:
        """Yield what computes the heads' gradients."""
        if self._weights[0] in gradients:
            yield weight_gradient(x, dy, gradients.of(self._weights), 0)
        if self._biases and self._biases[0] in gradients:
            yield bias_gradient(dy, gradients.of(self._biases), self._buffers.ones(len(dy)), 0)
