"""Balancing by factors on the losses: as given, learned, by how fast the losses fall, or drawn at random."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from mtl_core.model.cut import Cut
from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing.balancer import Balancer, Losses, LossWeighting, Scale, by_name, numbers

# Losses may reach 0, or stand below it where they are no distances: their ratios are taken from here on.
_LEAST_LOSS = 1e-8

# exp(-10) to exp(10): a loss that goes below 0 would drive its task's weight to infinity.
_MOST_LOG_VARIANCE = 10.0


class Sum(Balancer):
    """The plain sum of the losses: every task counts by the size of its loss."""

    def backward(self, losses: Losses, cut: Cut | None, scale: Scale) -> None:
        """Add the gradient of the sum of the losses."""
        values = list(losses.values())
        scale(torch.stack(values).sum() if len(values) > 1 else values[0]).backward()


class Fixed(LossWeighting):
    """The sum of the losses, each multiplied by a weight that is given.

    Args:
        weights: By task, each at least 0; a task that is not named has weight 1.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self._given = dict(weights)

    def named_tasks(self) -> Mapping[str, Iterable[str]]:
        """Return the tasks that weights are given for."""
        return {"weights": self._given}

    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {name: self._given.get(name, 1.0) for name in losses}


class Uncertainty(LossWeighting):
    """Weights that are learned with the model: ``exp(-s)`` for a task of log variance ``s``, held back by ``s / 2``.

    Every ``s`` begins at 0, which is weight 1, and is kept within [-10, 10]. One that is trained alone keeps weight 1.
    A task without labels in a step keeps its log variance.

    Source:
        Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics, 2018, https://arxiv.org/abs/1705.07115, equation 10.
    """

    def __init__(self) -> None:
        super().__init__()
        self._log_variances: dict[str, nn.Parameter] = {}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Set all log variances to 0."""
        super().begin(model, task_names)
        names = sorted(task_names) if len(task_names) > 1 else []
        self._log_variances = {name: nn.Parameter(torch.zeros((), device=model.device)) for name in names}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the log variances, by ``log_variance:`` and their task."""
        return {f"log_variance:{name}": parameter for name, parameter in self._log_variances.items()}

    def backward(self, losses: Losses, cut: Cut | None, scale: Scale) -> None:
        """Add the gradient of the weighted losses with their log variances, in these too."""
        if not self._log_variances:
            super().backward(losses, cut, scale)
            return
        values = torch.stack(list(losses.values()))
        bounded = torch.stack([self._log_variances[name] for name in losses]).clamp(
            -_MOST_LOG_VARIANCE, _MOST_LOG_VARIANCE
        )
        weights = (-bounded).exp()
        self._last |= by_name(losses, weights.detach())
        scale((weights * values + bounded / 2).sum()).backward()

    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        return dict.fromkeys(losses, 1.0)


class DynamicWeightAverage(LossWeighting):
    """Weights that are larger for tasks whose loss fell little from the last epoch but one to the last.

    They add up to the number of tasks, hold for a whole epoch, and are used as they are in steps with labels of some
    tasks only. They are 1 in the first two epochs. A task without labels in an epoch keeps its losses of before.

    Args:
        temperature: How evenly the weights are spread; default 2, range [0.01, 1000].

    Source:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, 2019,
        https://arxiv.org/abs/1803.10704, equation 7.
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self._temperature = temperature
        self._sums: dict[str, list[float]] = {}
        self._means: dict[str, list[float]] = {}
        self._weights: dict[str, float] = {}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Set all weights to 1."""
        super().begin(model, task_names)
        self._sums = {name: [0.0, 0.0] for name in sorted(task_names)}
        self._means = {name: [] for name in self._sums}
        self._weights = dict.fromkeys(self._sums, 1.0)

    def end_epoch(self) -> None:
        """Set the weights of the next epoch."""
        for name, (total, n) in self._sums.items():
            if n:
                self._means[name] = [*self._means[name], total / n][-2:]
            self._sums[name] = [0.0, 0.0]
        self._set_weights()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return each task's mean losses of the last two epochs, and the sum and count of this one's."""
        means = {f"means:{name}": _float64(values) for name, values in self._means.items()}
        return (
            super().state_dict()
            | means
            | {f"sums:{name}": _float64(values) for name, values in self._sums.items()}
        )

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        for kind, kept in (("means", self._means), ("sums", self._sums)):
            kept |= {name: numbers(state[f"{kind}:{name}"]) for name in kept if f"{kind}:{name}" in state}
        self._set_weights()

    def _set_weights(self) -> None:
        """Weigh by the ratios of losses; a task that has none yet counts as one whose loss stood still."""
        if not any(len(means) == 2 for means in self._means.values()):
            return
        ratios = [
            max(means[1], _LEAST_LOSS) / max(means[0], _LEAST_LOSS) if len(means) == 2 else 1.0
            for means in self._means.values()
        ]
        shares = (_float64(ratios) / self._temperature).softmax(0) * len(ratios)
        self._weights = by_name(self._means, shares)

    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        for name, value in losses.items():
            self._sums[name][0] += value
            self._sums[name][1] += 1
        return {name: self._weights[name] for name in losses}


class Random(LossWeighting):
    """Weights that are drawn anew for every step: the softmax of normal numbers, times the number of tasks in the step.

    They are drawn from torch's generator of the CPU, for the tasks in alphabetical order.

    Source:
        Lin et al., Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning, 2022,
        https://arxiv.org/abs/2111.10603, algorithm 1.
    """

    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        shares = torch.randn(len(losses)).softmax(0) * len(losses)
        return by_name(sorted(losses), shares)


def _float64(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
