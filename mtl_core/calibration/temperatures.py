"""Temperatures that make labels likeliest, fitted to logits.

Shapes: N labelled rows, or positions of them; K classes or outputs; C temperatures, 1 or K of them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mtl_core.data import is_given
from mtl_core.errors import TaskloomError
from mtl_core.outputs import Output, Sigmoid, Softmax
from mtl_core.scoring.metrics import Array
from mtl_core.scoring.scorer import NO_LABEL

LEAST, MOST = 0.05, 20.0
"""Between which bounds temperatures are fitted."""

_BOUND = math.log(MOST)

# In float64, what is computed from so many fits into a processor's cache.
_NUMBERS_AT_ONCE = 2**17


@dataclass(frozen=True)
class LabelledLogits:
    """The logits of labels that are given, a row for each example, or for each of its positions.

    Attributes:
        logits: Floating ``[N, K]``.
        labels: Classes int64 ``[N]``, distributions over the classes floating ``[N, K]``; or, where the outputs do not
            exclude one another, numbers from 0 to 1 ``[N, K]``, NaN where one is missing.
        exclusive: Whether the classes exclude one another, as under a softmax.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    exclusive: bool

    @classmethod
    def of(cls, logits: torch.Tensor, golds: torch.Tensor, output: Output) -> LabelledLogits:
        """Take what is labelled of logits ``[n, …]``; see :func:`fit_temperatures`.

        Raises:
            TaskloomError: As there, but for a lack of labels.
        """
        if not isinstance(output, Softmax | Sigmoid):
            raise TaskloomError(f"{type(output).__name__.lower()} is neither a softmax nor a sigmoid")
        found = (_of_classes if isinstance(output, Softmax) else _of_outputs)(logits, golds)
        if not bool(found.logits.isfinite().all()):
            raise TaskloomError("logits of labelled examples are not finite")
        return found

    @classmethod
    def joined(cls, parts: Sequence[LabelledLogits]) -> LabelledLogits:
        """Put the rows of several splits together.

        Raises:
            TaskloomError: If there is none, they have different numbers of classes, or only some have distributions.
        """
        if not parts:
            raise TaskloomError(NO_LABEL)
        if len({(part.logits.shape[1], part.labels.shape[1:], part.labels.dtype) for part in parts}) > 1:
            raise TaskloomError("labels or logits are not of one form in all datasets")
        logits, labels = [part.logits for part in parts], [part.labels for part in parts]
        return cls(torch.cat(logits), torch.cat(labels), parts[0].exclusive)

    @property
    def n_labels(self) -> int:
        """How many labels there are, each of those of an example by itself."""
        return len(self.labels) if self.exclusive else int((~self.labels.isnan()).sum())

    def log_loss(self, temperatures: torch.Tensor) -> float:
        """Return the mean negative log-likelihood (nats) of a label at temperatures ``[C]``."""
        return self.loss_and_slope(temperatures.double())[0]

    def loss_and_slope(self, temperatures: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the log-loss at temperatures, float64 ``[C]``, and its gradient in their logarithms, ``[C]``."""
        total, slope = 0.0, torch.zeros(self.logits.shape[1], dtype=torch.float64)
        for logits, shares in self._parts():
            z = logits / temperatures[:, None]
            if self.exclusive:
                log_probs = functional.log_softmax(z, dim=0)
                losses = -shares * log_probs
                errors = log_probs.exp() * shares.sum(dim=0) - shares
            else:
                losses = functional.softplus(z) - shares * z
                errors = z.sigmoid() - shares
            # Of an output, a label that is missing is NaN.
            total += losses.nansum().item()
            slope -= (errors * z).nansum(dim=1)
        slope = slope if len(temperatures) > 1 else slope.sum(dim=0, keepdim=True)
        return total / (n := self.n_labels), slope / n

    def seen(self) -> torch.Tensor:
        """Say of which classes there is a label, or of which outputs one for each answer: booleans ``[K]``."""
        totals = torch.zeros(2, self.logits.shape[1], dtype=torch.float64)
        for _, shares in self._parts():
            totals += torch.stack([shares.nansum(dim=1), (1 - shares).nansum(dim=1)])
        return totals[0] > 0 if self.exclusive else (totals > 0).all(dim=0)

    def _parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield some rows after the other: their logits and the labels' shares, float64 ``[K, …]``.

        Rows come last, for along few classes torch takes many times as long as along many rows.
        """
        k = self.logits.shape[1]
        classes = torch.arange(k)[:, None]
        rows = max(1, _NUMBERS_AT_ONCE // max(1, k))
        for start in range(0, len(self.logits), rows):
            logits, labels = self.logits[start : start + rows], self.labels[start : start + rows]
            shares = labels.t() if labels.ndim > 1 else labels == classes
            yield logits.t().contiguous().double(), shares.contiguous().double()


def fit_temperatures(
    logits: torch.Tensor, golds: torch.Tensor, output: Output, per_class: bool = False
) -> torch.Tensor:
    """Return the temperatures by which logits are divided to make their labels likeliest.

    With one for each class a softmax has vector scaling without its bias. A class that no label is of, or an output
    whose labels are all alike, has the temperature that is best for all together: its own would be at a bound.

    Args:
        logits: Before any temperature: floating, ``[n, k]`` or ``[n, k, …]`` for ``k`` classes or outputs, or ``[n]``.
        golds: Their labels: for a softmax classes ``[n]`` or ``[n, …]``, or distributions ``[n, k]``; for a sigmoid 0
            and 1 in the shape of the logits, or ``[n]`` for ``[n, 1]``. -1 and NaN are no labels.
        output: A softmax or a sigmoid.
        per_class: Whether there is one for each class or output; default: one for all.

    Returns:
        Temperatures in [0.05, 20], float64 ``[1]`` or ``[k]``.

    Raises:
        TaskloomError: If nothing is labelled, the logits of a labelled example are not finite, the labels do not suit
            the logits, or the output function is another one.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.

    Example:
        >>> logits, golds = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 1, 0])
        >>> fit_temperatures(logits, golds, Softmax()).round(decimals=2).tolist()
        [3.64]
    """
    return fit(LabelledLogits.of(logits, golds, output), per_class)


def fit(labelled: LabelledLogits, per_class: bool) -> torch.Tensor:
    """Do what :func:`fit_temperatures` does for logits of given labels."""
    if not labelled.n_labels:
        raise TaskloomError(NO_LABEL)
    one = _minimum(labelled, np.zeros(1), np.array([[-_BOUND, _BOUND]]))
    if not per_class:
        return _temperatures(one)
    start = np.repeat(one, labelled.logits.shape[1])
    bounds = np.where(labelled.seen().numpy()[:, None], [-_BOUND, _BOUND], one)
    return _temperatures(_minimum(labelled, start, bounds) if len(start) > 1 else start)


def _minimum(labelled: LabelledLogits, start: Array, bounds: Array) -> Array:
    """Return the logarithms of temperatures, ``[C]``, at which the log-loss is least within bounds ``[C, 2]``.

    It is convex in their reciprocals, so that there is one minimum.
    """

    def loss_and_slope(logs: Array) -> tuple[float, Array]:
        loss, slope = labelled.loss_and_slope(torch.from_numpy(logs).exp())
        return loss, slope.numpy()

    # Loading it takes a while.
    minimize: Any = importlib.import_module("scipy.optimize").minimize
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1_000}
    return minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _temperatures(logs: Array) -> torch.Tensor:
    return torch.from_numpy(logs).exp().clamp(LEAST, MOST)


def _of_classes(logits: torch.Tensor, golds: torch.Tensor) -> LabelledLogits:
    if logits.ndim < 2 or golds.shape not in (logits.shape, logits.shape[:1] + logits.shape[2:]):
        raise _unsuited(logits, golds)
    k, rows = logits.shape[1], logits.movedim(1, -1).flatten(end_dim=-2)
    if golds.ndim == logits.ndim:
        shares = golds.movedim(1, -1).flatten(end_dim=-2)
        given = is_given(shares).all(dim=1)
        return LabelledLogits(rows[given], shares[given].double(), exclusive=True)
    classes = golds.flatten()
    given = is_given(classes)
    classes = classes[given].long()
    if bool(((classes < 0) | (classes >= k)).any()):
        raise TaskloomError(f"labels must be classes from 0 to {k - 1}")
    return LabelledLogits(rows[given], classes, exclusive=True)


def _of_outputs(logits: torch.Tensor, golds: torch.Tensor) -> LabelledLogits:
    if golds.ndim == 1 and logits.shape[1:] == (1,):
        golds = golds[:, None]
    if golds.shape != logits.shape:
        raise _unsuited(logits, golds)
    rows, labels = _rows(logits), _rows(golds)
    given = is_given(labels)
    labels = labels.double().where(given, torch.nan)
    if bool(((labels < 0) | (labels > 1)).any()):
        raise TaskloomError("labels of a sigmoid must be 0 or 1")
    labelled = given.any(dim=1)
    return LabelledLogits(rows[labelled], labels[labelled], exclusive=False)


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values[:, None] if values.ndim == 1 else values.movedim(1, -1).flatten(end_dim=-2)


def _unsuited(logits: torch.Tensor, golds: torch.Tensor) -> TaskloomError:
    return TaskloomError(f"labels of shape {list(golds.shape)} do not suit logits of {list(logits.shape)}")
