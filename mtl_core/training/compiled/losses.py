"""Losses of several tasks at once, and their gradients in the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mtl_core.data import UNLABELLED
from mtl_core.losses.plain import LossKind
from mtl_core.training.compiled.buffers import Buffers

Call = Callable[[], object]

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Losses:
    """The losses of ``t`` tasks with ``k`` outputs each, on a batch of ``n`` examples.

    Examples come last: along few outputs torch's softmax takes many times as long as along many examples.

    Attributes:
        kind: The loss of all of them.
        outputs: ``[t · k, n]``, the tasks one after the other.
        labels: ``[t, n]`` or, but for classes, ``[t, n, k]``; -1 (or NaN) where one is missing.
        masked: Whether any may be missing; if so, each task has at least one.
        sums: Where the sums of the labels' losses are put, ``[t]``.
        counts: Where the numbers of labels are put, ``[t]``, if some may be missing; else they stand there.
        buffers: Memory for more.
        key: What sets these losses apart from others that use the same buffers.
    """

    kind: LossKind
    outputs: torch.Tensor
    labels: torch.Tensor
    masked: bool
    sums: torch.Tensor
    counts: torch.Tensor
    buffers: Buffers
    key: object

    @property
    def gradient(self) -> torch.Tensor:
        """Where the gradient in the outputs is put, ``[t · k, n]``."""
        return self._memory("gradient", self.outputs.shape)

    def calls(self) -> Iterator[Call]:
        """Yield what computes sums, counts and the gradient of the losses' sum."""
        yield from self._of_classes() if self.kind.name == "cross_entropy" else self._of_values()

    def _of_classes(self) -> Iterator[Call]:
        shape, n, classes = self._shape, self.outputs.shape[1], self.labels
        given = None
        if self.masked:
            given = self._memory("given", classes.shape)
            yield from self._look_for_missing(classes, given)
            clamped = self._memory("classes", classes.shape, torch.int64)
            yield partial(torch.clamp_min, classes, 0, out=clamped)
            classes = clamped
        device = self.outputs.device
        firsts = torch.arange(shape[0], device=device).unsqueeze(1) * (shape[1] * n) + torch.arange(
            n, device=device
        )
        places = self._memory("places", classes.shape, torch.int64)
        yield partial(torch.add, firsts, classes, alpha=n, out=places)
        # In the place of the gradient, which the logarithms become in the end.
        log_probs = self.gradient.view(shape)
        yield partial(
            torch._log_softmax,  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage] It has an out.
            *(self.outputs.view(shape), 1, False),
            out=log_probs,
        )
        chosen = self._memory("chosen", classes.shape)
        yield partial(torch.index_select, log_probs.view(-1), 0, places.view(-1), out=chosen.view(-1))
        if given is not None:
            yield partial(chosen.mul_, given)
        yield partial(torch.mv, chosen, self.buffers.minus_ones(n), out=self.sums)
        yield partial(torch.exp, log_probs, out=log_probs)
        minus = self.buffers.minus_ones(classes.numel())
        yield partial(log_probs.view(-1).index_add_, 0, places.view(-1), minus)
        yield from self._scale(log_probs, None if given is None else given.unsqueeze(1), 1.0)

    def _of_values(self) -> Iterator[Call]:
        outputs, gradient = self.outputs.view(self._shape), self.gradient.view(self._shape)
        targets = self._memory("targets", self._shape)
        yield partial(targets.copy_, self.labels.transpose(1, 2))
        given = None
        if self.masked:
            given = self._memory("given", self._shape)
            yield from self._look_for_missing(targets, given)
            # A missing label may be NaN, which no factor makes 0.
            yield partial(torch.nan_to_num, targets, 0.0, math.inf, -math.inf, out=targets)
            yield partial(targets.mul_, given)
        losses = self._memory("losses", self._shape)
        if self.kind.name == "mse":
            factor = 2.0
            yield partial(torch.sub, outputs, targets, out=gradient)
            if given is not None:
                yield partial(gradient.mul_, given)
            yield partial(torch.mul, gradient, gradient, out=losses)
        else:
            factor = 1.0
            yield partial(_aten.softplus.out, outputs, 1, 20, out=losses)
            yield partial(losses.addcmul_, outputs, targets, value=-1)
            yield partial(torch.sigmoid, outputs, out=gradient)
            yield partial(gradient.sub_, targets)
            if given is not None:
                yield partial(losses.mul_, given)
                yield partial(gradient.mul_, given)
        yield partial(torch.sum, losses, (1, 2), out=self.sums)
        yield from self._scale(gradient, given, factor)

    def _look_for_missing(self, labels: torch.Tensor, given: torch.Tensor) -> Iterator[Call]:
        """Yield what puts 1 where a label ``[t, …]`` is given, and counts them by task."""
        yield partial(torch.ne, labels, UNLABELLED, out=given)
        if labels.is_floating_point():
            known = self._memory("known", given.shape)
            yield partial(torch.eq, labels, labels, out=known)
            yield partial(given.mul_, known)
        yield partial(torch.sum, given.view(len(given), -1), 1, out=self.counts)

    def _scale(self, gradient: torch.Tensor, given: torch.Tensor | None, factor: float) -> Iterator[Call]:
        """Yield what makes the gradient of sums ``[t, k, n]`` one of the losses."""
        if given is None or self.kind.reduction == "sum":
            if given is not None and self.kind.name == "cross_entropy":
                yield partial(gradient.mul_, given)
            scale = factor if self.kind.reduction == "sum" else factor / self.labels[0].numel()
            if scale != 1:
                yield partial(gradient.mul_, scale)
            return
        shares = self._memory("shares", given.shape)
        yield partial(torch.div, given, self.counts.view(-1, 1, 1), out=shares)
        yield partial(gradient.mul_, shares)
        if factor != 1:
            yield partial(gradient.mul_, factor)

    @property
    def _shape(self) -> tuple[int, int, int]:
        n_tasks = len(self.labels)
        return n_tasks, len(self.outputs) // n_tasks, self.outputs.shape[1]

    def _memory(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self.buffers.fixed((self.key, name), shape, dtype)
