"""Which tasks pull against one another, and where: gradients of all tasks compared while a model trains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from statistics import fmean
from typing import Any, cast

import torch
from torch import nn

from mtl_core.data import DictDataLoader
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.batch_schedules import Draw
from mtl_core.training.config import DiagnosisConfig
from mtl_core.training.early_stopping import NoStopper
from mtl_core.training.step_losses import batch_losses, task_losses
from mtl_core.training.task_gradients import shared_parameters, task_gradients

# Pairs grow with the square of the tasks, and each is a series of its own.
_MAX_PAIRS = 300
_MAX_PAIRS_BY_MODULE = 1000
_MAX_LINES = 10

# Below this, two gradients of some thousand numbers are as good as at right angles.
_CONFLICT = -0.05


_Series = defaultdict[tuple[str, str], list[float]]


class Diagnosis:
    """Compares the tasks' gradients on the modules that they share, at some steps of a training.

    What is compared are the gradients of one batch from every loader, drawn for that alone: neither the training's
    random numbers nor the model's buffers change. All gradients of shared parameters are in memory at once, a copy of
    them for each task.

    Args:
        config: At which steps.
        model: What is trained.
        loaders: What it is trained on.
        n_steps: Steps of the training.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, 2020, https://arxiv.org/abs/2001.06782, for the angle
        between gradients as the sign of a conflict.
    """

    def __init__(
        self,
        config: DiagnosisConfig,
        model: MultitaskClassifier,
        loaders: Sequence[DictDataLoader],
        n_steps: int,
    ) -> None:
        spread = [i * n_steps // config.times for i in range(config.times)]
        self._steps = set(config.at_steps or spread)
        self._model = model
        self._loaders = [loader for loader in loaders if len(loader)]
        self._cosines: _Series = defaultdict(list)
        self._by_module: defaultdict[str, _Series] = defaultdict(lambda: defaultdict(list))

    def is_due(self, step: int) -> bool:
        """Say whether the gradients are to be compared before a step, counted from 0."""
        return step in self._steps

    def measure(self, split: str) -> dict[str, float]:
        """Compare the gradients of all tasks at the model's present weights.

        Returns:
            By key, where ``a`` and ``b`` are tasks in alphabetical order and ``m`` is a module that both use:
            ``a/all/<split>/gradient_cosine:b`` over all that they share, and ``…:b@m`` on one module, in [-1, 1];
            ``a/all/<split>/loss_share`` and ``a/all/<split>/gradient_share``, a task's share of the sum of absolute
            losses and of the norms of gradients on shared modules, in [0, 1]. With very many tasks pairs are
            left out, and only :meth:`affinities` has them.
        """
        with _undisturbed(self._model):
            return self._compared(split)

    @property
    def affinities(self) -> dict[tuple[str, str], float]:
        """The mean cosine of each two tasks' gradients so far; the names of a pair are in alphabetical order."""
        return {pair: fmean(values) for pair, values in self._cosines.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the cosines of all comparisons so far."""
        return {
            "cosines": _listed(self._cosines),
            "by_module": {module: _listed(of) for module, of in self._by_module.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._cosines = _series_of(state["cosines"])
        for module, listed in state["by_module"].items():
            self._by_module[module] = _series_of(listed)

    def summary(self) -> list[str]:
        """Return a line for each pair of tasks that pulled against one another, the worst first."""
        conflicts = sorted((mean, pair) for pair, mean in self.affinities.items() if mean < _CONFLICT)
        lines = [self._line(pair, mean) for mean, pair in conflicts[:_MAX_LINES]]
        if more := len(conflicts) - len(lines):
            lines.append(f"{more} more pairs of tasks pull against one another")
        return lines or ["no two tasks pull against one another on the modules that they share"]

    def _compared(self, split: str) -> dict[str, float]:
        losses = self._losses()
        if len(losses) < 2:
            return {}
        shared = shared_parameters(self._model, losses)
        values = {task: abs(loss.item()) for task, loss in losses.items()}
        metrics = _shares(values, split, "loss_share")
        if not shared:
            return metrics
        names = list(losses)
        products = _products(losses, shared)
        squares = products.diagonal(dim1=1, dim2=2)
        norms = cast("list[float]", squares.sum(dim=0).sqrt().tolist())
        metrics |= _shares(dict(zip(names, norms, strict=True)), split, "gradient_share")
        uses = torch.tensor([[float(m in self._model.modules_of(name)) for name in names] for m in shared])
        # Two tasks are compared on what both use: a third may share other modules with either.
        common = squares.T @ uses
        found = _by_pair(names, _cosines(products.sum(dim=0), common))
        for pair, cosine in found.items():
            self._cosines[pair].append(cosine)
        if len(found) > _MAX_PAIRS:
            return metrics
        metrics |= {f"{a}/all/{split}/gradient_cosine:{b}": cosine for (a, b), cosine in found.items()}
        if len(found) * len(shared) > _MAX_PAIRS_BY_MODULE:
            return metrics
        for module, product in zip(shared, products, strict=True):
            own = product.diagonal()[:, None].expand_as(product)
            for (a, b), cosine in _by_pair(names, _cosines(product, own)).items():
                self._by_module[module][a, b].append(cosine)
                metrics[f"{a}/all/{split}/gradient_cosine:{b}@{module}"] = cosine
        return metrics

    def _line(self, pair: tuple[str, str], mean: float) -> str:
        means = {module: fmean(of[pair]) for module, of in self._by_module.items() if pair in of}
        worst = min(means, key=lambda module: means[module]) if means else None
        where = f", most of all on module '{worst}' ({means[worst]:.2f})" if worst else ""
        return f"tasks '{pair[0]}' and '{pair[1]}' pull against one another: mean cosine of gradients {mean:.2f}{where}"

    def _losses(self) -> dict[str, torch.Tensor]:
        draws: list[Draw] = [(next(iter(loader)), loader) for loader in self._loaders]
        batches = batch_losses(self._model, NoStopper(), draws)
        losses = task_losses(self._model.tasks, batches)
        return {task: losses[task] for task in sorted(losses) if losses[task].requires_grad}


@contextmanager
def _undisturbed(model: MultitaskClassifier) -> Generator[None]:
    """Give the model's buffers, such as running statistics, and torch's random state back after the block."""
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    with torch.random.fork_rng():
        yield
    for buffer, kept in buffers.items():
        buffer.copy_(kept)


def _listed(series: _Series) -> list[list[Any]]:
    return [[*pair, values] for pair, values in series.items()]


def _series_of(listed: list[list[Any]]) -> _Series:
    return defaultdict(list, {(a, b): values for a, b, values in listed})


def _products(losses: Mapping[str, torch.Tensor], shared: Mapping[str, list[nn.Parameter]]) -> torch.Tensor:
    """Return the products of each two tasks' gradients on each module, ``[n_modules, n_tasks, n_tasks]``."""
    gradients = task_gradients(
        losses, [parameter for of_module in shared.values() for parameter in of_module]
    )
    sizes = [sum(parameter.numel() for parameter in of_module) for of_module in shared.values()]
    parts = cast("tuple[torch.Tensor, ...]", gradients.float().split(sizes, dim=1))
    return torch.stack([part @ part.T for part in parts]).cpu()


def _cosines(products: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Return cosines ``[n, n]``; NaN where a gradient is 0, as that of a task which has no part in a module.

    Args:
        products: Of each two gradients, ``[n, n]``.
        squares: The square of gradient ``i``'s norm where it is compared with gradient ``j``, ``[n, n]``.
    """
    return (products / (squares * squares.T).sqrt()).clamp(-1, 1)


def _by_pair(names: Sequence[str], cosines: torch.Tensor) -> dict[tuple[str, str], float]:
    rows = cast("list[list[float]]", cosines.tolist())
    pairs = combinations(range(len(names)), 2)
    return {(names[i], names[j]): rows[i][j] for i, j in pairs if not math.isnan(rows[i][j])}


def _shares(values: Mapping[str, float], split: str, metric: str) -> dict[str, float]:
    total = sum(values.values())
    return {f"{task}/all/{split}/{metric}": value / total for task, value in values.items()} if total else {}
