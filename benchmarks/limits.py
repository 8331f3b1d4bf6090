"""The limit loops: the least Python that does a workload's arithmetic with torch's own kernels.

Two forms: eager autograd, and a backward pass written by hand on buffers made beforehand. Batches are indices from a
permutation an epoch, the heads that a batch has labels for are one product, their losses one call, parameters and
gradients lie in flat buffers, clipping takes one norm, and Adam is torch's fused kernel. Several heads have the
examples last: along few classes torch's softmax takes many times as long as along many examples. They leave out what a
trainer has to have: labels that are missing, losses by task, any metric but accuracy.

Run one from the repository's root: ``python -m benchmarks.limits hand-written W1 1 0``, or ``autograd``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.measuring import Arguments, report
from benchmarks.workloads import GRAD_CLIP, Layer, Split, Weights, Workload

N_ROWS_SCORED = 2048
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Moments:
    """Adam's state of one flat buffer of parameters."""

    mean: torch.Tensor
    square: torch.Tensor
    step: torch.Tensor

    @classmethod
    def of(cls, parameters: torch.Tensor) -> Moments:
        """Return the state before the first step."""
        return cls(torch.zeros_like(parameters), torch.zeros_like(parameters), torch.zeros(()))


class Network:
    """Trunk and heads of a workload in flat buffers, with Adam's state; heads of one table are one product.

    Attributes:
        trunk: Weight and bias of each layer, views of ``flat_trunk``.
        flat_trunk: All parameters of the trunk.
        data: For each train split its values ``[n, d]``, labels ``[n, tasks]``, and head.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.flat_trunk, self.trunk = _flat(workload.initial.trunk)
        self.trunk_moments = Moments.of(self.flat_trunk)
        self.heads = [Head(workload, split) for split in workload.train_splits]
        # One head works at a time, so that one buffer holds the gradients of trunk and head side by side.
        self.gradients = torch.zeros(self.flat_trunk.numel() + max(head.flat.numel() for head in self.heads))

    def batches(self) -> Iterator[tuple[Head, torch.Tensor]]:
        """Yield one epoch's batches in mixed order: the head, and which rows of its table."""
        orders = [
            iter(torch.randperm(len(head.values)).split(self.workload.batch_size)) for head in self.heads
        ]
        turns = [
            i
            for i, head in enumerate(self.heads)
            for _ in range(-(-len(head.values) // self.workload.batch_size))
        ]
        for turn in torch.randperm(len(turns)).tolist():
            which = turns[turn]
            yield self.heads[which], next(orders[which])

    def step(self, head: Head, gradients: torch.Tensor, scale: float) -> None:
        """Clip the gradients, which are ``scale`` times too large, and take a step of Adam."""
        # The kernel divides gradients by grad_scale: clipping costs no pass of its own.
        divisor = torch.linalg.vector_norm(gradients).div_(GRAD_CLIP).clamp_min_(scale)
        n = self.flat_trunk.numel()
        mine, its = self.trunk_moments, head.moments
        mine.step.add_(1)
        its.step.add_(1)
        torch._fused_adam_(
            [self.flat_trunk, head.flat],
            [gradients[:n], gradients[n:]],
            [mine.mean, its.mean],
            [mine.square, its.square],
            [],
            [mine.step, its.step],
            lr=self.workload.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )

    def logits(self, head: Head, values: torch.Tensor) -> torch.Tensor:
        """Return the head's answers to values ``[n, d]``: ``[tasks, classes, n]``, but of one task ``[n, classes]``."""
        hidden = values
        for weight, bias in self.trunk:
            hidden = torch.addmm(bias, hidden, weight.t()).relu_()
        if len(head.tasks) == 1:
            return torch.addmm(head.bias, hidden, head.weight.t())
        logits = torch.addmm(head.bias.unsqueeze(1), head.weight, hidden.t())
        return logits.view(len(head.tasks), -1, len(values))

    def score(self) -> dict[str, float]:
        """Return the accuracy on each split by ``task/split``."""
        heads = {task: head for head in self.heads for task in head.tasks}
        accuracies: dict[str, float] = {}
        with torch.inference_mode():
            for split in self.workload.splits:
                tasks = list(split.labels)
                correct = self._n_correct(split, heads[tasks[0]])
                for task, n in zip(tasks, correct.tolist(), strict=True):
                    accuracies[f"{task}/{split.split}"] = n / len(split.values)
        return accuracies

    def _n_correct(self, split: Split, head: Head) -> torch.Tensor:
        all_values, all_labels = _table(split)
        correct = torch.zeros(len(head.tasks), dtype=torch.int64)
        for values, labels in zip(
            all_values.split(N_ROWS_SCORED), all_labels.split(N_ROWS_SCORED), strict=True
        ):
            correct += _are_highest(self.logits(head, values), labels).sum(dim=-1)
        return correct

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        trunk = [(weight.numpy(force=True), bias.numpy(force=True)) for weight, bias in self.trunk]
        return Weights(trunk, {task: layer for head in self.heads for task, layer in head.layers().items()})


class Head:
    """The heads of one table's tasks, as one layer, and the table: values ``[n, d]``, labels ``[n, tasks]``."""

    def __init__(self, workload: Workload, split: Split) -> None:
        self.tasks = list(split.labels)
        layers = [workload.initial.heads[task] for task in self.tasks]
        whole = tuple(np.concatenate(parts) for parts in zip(*layers, strict=True))
        self.flat, ((self.weight, self.bias),) = _flat([(whole[0], whole[1])])
        self.moments = Moments.of(self.flat)
        self.values, self.labels = _table(split)

    def layers(self) -> dict[str, Layer]:
        """Return each task's part."""
        n = len(self.tasks)
        parts = zip(self.weight.chunk(n), self.bias.chunk(n), strict=True)
        return {
            task: (weight.numpy(force=True), bias.numpy(force=True))
            for task, (weight, bias) in zip(self.tasks, parts, strict=True)
        }


class AutogradLimit(Network):
    """Eager autograd, whose gradients are summed right into the flat buffer."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        _accumulating(self.trunk, self.gradients)
        for head in self.heads:
            _accumulating([(head.weight, head.bias)], self.gradients[self.flat_trunk.numel() :])

    def fit(self) -> None:
        """Train from the initial weights."""
        torch.manual_seed(self.workload.seed)
        n_trunk = self.flat_trunk.numel()
        total = torch.zeros(())
        for _ in range(self.workload.n_epochs):
            for head, rows in self.batches():
                gradients = self.gradients[: n_trunk + head.flat.numel()]
                gradients.zero_()
                logits = self.logits(head, head.values.index_select(0, rows))
                labels = head.labels.index_select(0, rows)
                loss = F.cross_entropy(logits, labels.view(-1) if len(head.tasks) == 1 else labels.t())
                loss.backward()
                total += loss.detach()
                # The loss is a mean over tasks, not their sum.
                self.step(head, gradients, 1 / len(head.tasks))


class HandWrittenLimit(Network):
    """A backward pass written by hand, every result of which goes to a buffer made beforehand."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._buffers: dict[tuple[int, int], Buffers] = {}

    def fit(self) -> None:
        """Train from the initial weights."""
        torch.manual_seed(self.workload.seed)
        total = torch.zeros(())
        for _ in range(self.workload.n_epochs):
            for head, rows in self.batches():
                key = id(head), len(rows)
                if (buffers := self._buffers.get(key)) is None:
                    buffers = self._buffers[key] = Buffers(self, head, len(rows))
                total += buffers.loss_and_gradients(rows)
                # The gradients are of the sum over rows, to be divided by their number.
                self.step(head, buffers.gradients, len(rows))


class Buffers:
    """Everything that a step of one head on a number of rows computes."""

    def __init__(self, network: Network, head: Head, n: int) -> None:
        self._table, n_trunk = (head.values, head.labels), network.flat_trunk.numel()
        self.gradients = network.gradients[: n_trunk + head.flat.numel()]
        self._values = torch.empty(n, head.values.shape[1])
        self._labels = torch.empty(n, len(head.tasks), dtype=torch.int64)
        hidden = [torch.empty(n, len(bias)) for _, bias in network.trunk]
        inputs = [self._values, *hidden]
        layers = [*network.trunk, (head.weight, head.bias)]
        gradients = _views(self.gradients, layers)
        n_tasks, n_logits = len(head.tasks), len(head.bias)
        self._logits = torch.empty(n_logits, n)
        self._by_task = self._logits.view(n_tasks, -1, n)
        self._log_probs = torch.empty_like(self._by_task)
        # Where the labels' logits lie, in memory: a label's is as many times n behind its first class's.
        firsts = torch.arange(n_tasks).unsqueeze(1) * (n_logits // n_tasks * n) + torch.arange(n)
        self._into_places = firsts, self._labels.t(), n
        self._places = torch.empty(n_tasks, n, dtype=torch.int64)
        self._chosen, self._minus_ones = torch.empty(n_tasks * n), torch.full((n_tasks * n,), -1.0)
        self._flat = self._log_probs.view(-1), self._logits.view(-1), self._places.view(-1)
        self._head = head.bias.unsqueeze(1), head.weight, hidden[-1].t()
        # Probabilities, and then the gradient of the logits, lie where the logits did.
        d_outputs = [*(torch.empty_like(values) for values in hidden), self._logits.t()]
        self._trunk = [
            (bias, values, weight.t(), answers)
            for (weight, bias), values, answers in zip(network.trunk, inputs, hidden, strict=False)
        ]
        self._backward = [
            (d_answers, d_answers.t(), values, weight, d_values, d_weight, d_bias)
            for (weight, _), (d_weight, d_bias), values, d_answers, d_values in zip(
                layers[1:], gradients[1:], hidden, d_outputs[1:], d_outputs[:-1], strict=True
            )
        ][::-1]
        self._first = d_outputs[0], d_outputs[0].t(), *gradients[0]

    def loss_and_gradients(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of all losses; ``gradients`` become those of it."""
        values, labels = self._table
        torch.index_select(values, 0, rows, out=self._values)
        torch.index_select(labels, 0, rows, out=self._labels)
        for bias, values, weight, answers in self._trunk:
            torch.addmm(bias, values, weight, out=answers)
            answers.relu_()
        torch.addmm(*self._head, out=self._logits)
        torch.log_softmax(self._by_task, 1, out=self._log_probs)
        firsts, labels, n = self._into_places
        log_probs, probs, places = self._flat
        torch.add(firsts, labels, alpha=n, out=self._places)
        torch.index_select(log_probs, 0, places, out=self._chosen)
        loss = torch.dot(self._chosen, self._minus_ones)
        torch.exp(self._log_probs, out=self._by_task)
        probs.index_add_(0, places, self._minus_ones)
        for d_answers, d_transposed, values, weight, d_values, d_weight, d_bias in self._backward:
            torch.mm(d_transposed, values, out=d_weight)
            torch.sum(d_answers, 0, out=d_bias)
            torch.mm(d_answers, weight, out=d_values)
            _threshold_backward(d_values, values, 0, grad_input=d_values)
        d_answers, d_transposed, d_weight, d_bias = self._first
        torch.mm(d_transposed, self._values, out=d_weight)
        torch.sum(d_answers, 0, out=d_bias)
        return loss


def _are_highest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Say which labels ``[n, tasks]`` are the first class of those with the highest of logits, as they are laid out."""
    if logits.ndim == 2:
        return logits.argmax(dim=1) == labels.view(-1)
    # Along another dimension than the last, to look for the places of the highest takes many times as long.
    highest = logits == logits.amax(dim=1, keepdim=True)
    if int(highest.count_nonzero()) != labels.numel():
        return logits.argmax(dim=1) == labels.t()
    return highest.gather(1, labels.t().unsqueeze(1)).squeeze(1)


def _flat(layers: list[Layer]) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Put layers into one buffer, and return it and the layers as views of it."""
    parts = [torch.from_numpy(part) for layer in layers for part in layer]
    flat = torch.cat([part.reshape(-1) for part in parts])
    return flat, _views(flat, [(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)])


def _views(
    flat: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return views of a flat buffer that lie one after the other and have the layers' shapes."""
    views: list[tuple[torch.Tensor, torch.Tensor]] = []
    start = 0
    for weight, bias in layers:
        middle, end = start + weight.numel(), start + weight.numel() + bias.numel()
        views.append((flat[start:middle].view_as(weight), flat[middle:end]))
        start = end
    return views


def _accumulating(layers: list[tuple[torch.Tensor, torch.Tensor]], gradients: torch.Tensor) -> None:
    """Make autograd sum the layers' gradients into a flat buffer."""
    for layer, slots in zip(layers, _views(gradients, layers), strict=True):
        for parameter, slot in zip(layer, slots, strict=True):
            parameter.requires_grad_().grad = slot


def _table(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a split's values ``[n, d]`` and labels ``[n, tasks]``."""
    return torch.from_numpy(split.values), torch.from_numpy(np.stack(list(split.labels.values()), axis=1))


LIMITS = {"autograd": AutogradLimit, "hand-written": HandWrittenLimit}

if __name__ == "__main__":
    read = Arguments.read()
    report(LIMITS[read.own[0]], read)
