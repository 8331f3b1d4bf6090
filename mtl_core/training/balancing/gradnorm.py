"""GradNorm: weights under which all tasks' gradients are of like length, longer for tasks that lag behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing.balancer import Losses, by_name
from mtl_core.training.balancing.gradient_methods import GradientMethod, On
from mtl_core.training.balancing.task_adam import TaskAdam
from mtl_core.training.balancing.task_jacobian import TaskJacobian

_LEAST_LOSS = 1e-8
_LEAST_WEIGHT = 1e-3


class GradNorm(GradientMethod):
    """Weights on the losses, learned so that the tasks' gradients become of like length, but longer for those that lag.

    A task lags if its loss has fallen to a larger share of its first one than those of other tasks of the step. The
    weights begin at 1 and are moved by an Adam of their own after each step; those of the step's tasks keep their sum,
    and those of other tasks stay, so that all add up to the number of tasks.

    Args:
        alpha: How strongly lagging counts; default 1.5, range [0, 10].
        lr: Learning rate of the weights; default 0.025, range (0, 1].
        on: Where gradients are measured; default ``"parameters"``.

    Source:
        Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, 2018,
        https://arxiv.org/abs/1711.02257, algorithm 1.
    """

    def __init__(self, alpha: float = 1.5, lr: float = 0.025, on: On = "parameters") -> None:
        super().__init__(on)
        self._alpha = alpha
        self._lr = lr
        self._learned = TaskAdam({}, lr)
        self._first: dict[str, float] = {}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Set all weights to 1 and forget the first losses."""
        super().begin(model, task_names)
        self._learned = TaskAdam(dict.fromkeys(sorted(task_names), 1.0), self._lr)
        self._first = {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights, their Adam's state, and by ``first:`` and task its first loss."""
        first = {f"first:{name}": torch.tensor(v, dtype=torch.float64) for name, v in self._first.items()}
        return super().state_dict() | self._learned.state_dict() | first

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._learned.load_state_dict(state)
        keys = {name: f"first:{name}" for name in self._learned.values}
        self._first = {name: state[key].item() for name, key in keys.items() if key in state}

    def _balance(
        self, jacobian: TaskJacobian, gramian: torch.Tensor, moving: torch.Tensor, losses: Losses
    ) -> None:
        weights = {name: self._learned.values[name] for name in jacobian.names}
        self._last |= weights
        factors = jacobian.rows.new_tensor([weights[name] for name in jacobian.names])
        jacobian.accumulate(factors @ jacobian.rows, weights)
        lengths = by_name(jacobian.names, gramian.diagonal().sqrt())
        measured = {name: length for name, length in lengths.items() if length > 0}
        self._learn(measured, {name: losses[name].item() for name in measured})

    def _learn(self, lengths: Mapping[str, float], losses: Mapping[str, float]) -> None:
        """Move the weights of some tasks, by the lengths of their gradients and their losses."""
        weights = self._learned.values
        total = sum(weights[name] for name in lengths)
        left: dict[str, float] = {}
        for name, loss in losses.items():
            first = self._first.setdefault(name, max(loss, _LEAST_LOSS))
            left[name] = max(loss, _LEAST_LOSS) / first
        mean_left = fmean(left.values())
        mean_length = fmean(weights[name] * length for name, length in lengths.items())
        gradients: dict[str, float] = {}
        for name, length in lengths.items():
            wanted = mean_length * (left[name] / mean_left) ** self._alpha
            difference = weights[name] * length - wanted
            gradients[name] = length * ((difference > 0) - (difference < 0))
        self._learned.step(gradients)
        moved = {name: max(weights[name], _LEAST_WEIGHT) for name in lengths}
        scale = total / sum(moved.values())
        weights.update((name, weight * scale) for name, weight in moved.items())
