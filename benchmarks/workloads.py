"""The workloads that all contenders train on: data, initial weights and settings, drawn with a seed by numpy alone.

Numpy alone, so that each contender's environment makes the very same arrays.

- **W1**: the circle and the square of the tutorial: two tasks of 800/100/100 two-dimensional points each in the splits
  train, valid and test; trunk 2-8-4; batches of 32, 10 epochs, learning rate 0.02.
- **W2**: eight tasks of 2 to 5 classes, each with its own 20,000 rows of 64 numbers to train on and 2,000 in the split
  valid; trunk 64-256-256; batches of 128 of one task each, mixed at random, 3 epochs, learning rate 0.001.
- **W3**: one table of 200,000 rows of 128 numbers, labelled for 16 tasks of four classes; trunk 128-256-128; batches of
  512, 1 epoch, learning rate 0.001.

Every layer of a trunk is followed by a ReLU; heads are linear. All train by Adam on the sum of the tasks' mean
cross-entropies, with gradients clipped to a norm of 1, on the train splits; all splits are scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Layer = tuple[Floats, Floats]
"""Weight ``[out, in]`` and bias ``[out]``."""

SEED, GRAD_CLIP = 7, 1.0


@dataclass(frozen=True)
class Split:
    """Rows of one data set: values ``[n, d]`` of one field, and labels ``[n]`` by task."""

    dataset: str
    split: str
    field: str
    values: Floats
    labels: dict[str, Labels]


@dataclass(frozen=True)
class Weights:
    """The trunk's layers in order, and each task's head."""

    trunk: list[Layer]
    heads: dict[str, Layer]


@dataclass(frozen=True)
class Workload:
    """What is trained and scored, on what, and how; ``seed`` is that of the order of batches."""

    name: str
    splits: list[Split]
    initial: Weights
    batch_size: int
    n_epochs: int
    lr: float
    seed: int = SEED

    @property
    def train_splits(self) -> list[Split]:
        """The splits to train on."""
        return [split for split in self.splits if split.split == "train"]

    def first_rows(self) -> Workload:
        """Return the same with two batches of rows a split and one epoch: what warms a process up."""
        n = 2 * self.batch_size
        splits = [
            replace(
                split,
                values=split.values[:n].copy(),
                labels={task: labels[:n].copy() for task, labels in split.labels.items()},
            )
            for split in self.splits
        ]
        return replace(self, splits=splits, n_epochs=1)


def load(name: str, seed: int = SEED) -> Workload:
    """Return the workload ``W1``, ``W2`` or ``W3``, whose batches are to be mixed by this seed."""
    return replace(WORKLOADS[name](np.random.default_rng(SEED)), seed=seed)


def mean_loss(workload: Workload, weights: Weights) -> float:
    """Return the cross-entropy of the train splits, averaged over each task's rows and then over tasks."""
    losses: list[float] = []
    for split in workload.train_splits:
        values = split.values
        for weight, bias in weights.trunk:
            values = np.maximum(values @ weight.T + bias, 0)
        for task, labels in split.labels.items():
            weight, bias = weights.heads[task]
            logits = (values @ weight.T + bias).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            likelihoods = logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(axis=1))
            losses.append(-float(likelihoods.mean()))
    return float(np.mean(losses))


def _w1(random: np.random.Generator) -> Workload:
    inside: dict[str, Callable[[Floats], NDArray[np.bool_]]] = {
        "circle": lambda points: np.square(points).sum(axis=1) < 2 / np.pi,
        "square": lambda points: np.abs(points).sum(axis=1) < 1,
    }
    bounds = {"train": slice(0, 800), "valid": slice(800, 900), "test": slice(900, 1000)}
    splits: list[Split] = []
    for shape, is_inside in inside.items():
        points = random.uniform(-1, 1, (1000, 2)).astype(np.float32)
        labels = is_inside(points).astype(np.int64)
        splits += [
            Split(f"{shape}Dataset", name, f"{shape}_data", points[rows], {f"{shape}_task": labels[rows]})
            for name, rows in bounds.items()
        ]
    weights = _weights(random, [2, 8, 4], {"circle_task": 2, "square_task": 2})
    return Workload("W1", splits, weights, batch_size=32, n_epochs=10, lr=0.02)


def _w2(random: np.random.Generator) -> Workload:
    classes = {f"task_{i}": n for i, n in enumerate([2, 3, 4, 5, 2, 3, 4, 5])}
    splits: list[Split] = []
    hidden = layer(random, 64, 64)
    for task, n_classes in classes.items():
        values, labels = _labelled(random, 22_000, hidden, {task: n_classes})
        for name, rows in {"train": slice(0, 20_000), "valid": slice(20_000, 22_000)}.items():
            splits.append(Split(f"{task}_data", name, "x", values[rows], {task: labels[task][rows]}))
    weights = _weights(random, [64, 256, 256], classes)
    return Workload("W2", splits, weights, batch_size=128, n_epochs=3, lr=1e-3)


def _w3(random: np.random.Generator) -> Workload:
    classes = {f"task_{i}": 4 for i in range(16)}
    values, labels = _labelled(random, 200_000, layer(random, 128, 64), classes)
    weights = _weights(random, [128, 256, 128], classes)
    return Workload(
        "W3", [Split("table", "train", "x", values, labels)], weights, batch_size=512, n_epochs=1, lr=1e-3
    )


WORKLOADS = {"W1": _w1, "W2": _w2, "W3": _w3}


def _labelled(
    random: np.random.Generator, n: int, hidden: Layer, classes: dict[str, int]
) -> tuple[Floats, dict[str, Labels]]:
    """Draw rows, and of a random network's answers the likeliest class of each row for each task."""
    weight, bias = hidden
    values = random.standard_normal((n, weight.shape[1]), dtype=np.float32)
    features = np.maximum(values @ (4 * weight).T + bias, 0)
    features -= features.mean(axis=0)
    labels: dict[str, Labels] = {}
    for task, n_classes in classes.items():
        directions = random.standard_normal((features.shape[1], n_classes), dtype=np.float32)
        labels[task] = (features @ directions).argmax(axis=1)
    return values, labels


def _weights(random: np.random.Generator, widths: list[int], classes: dict[str, int]) -> Weights:
    trunk = [layer(random, n_in, n_out) for n_in, n_out in pairwise(widths)]
    return Weights(trunk, {task: layer(random, widths[-1], n) for task, n in classes.items()})


def layer(random: np.random.Generator, n_in: int, n_out: int) -> Layer:
    """Draw a layer as ``torch.nn.Linear`` does: uniformly within one over the root of its inputs."""
    bound = n_in**-0.5
    weight = random.uniform(-bound, bound, (n_out, n_in)).astype(np.float32)
    return weight, random.uniform(-bound, bound, n_out).astype(np.float32)
