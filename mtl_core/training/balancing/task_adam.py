"""Adam over one number for each task, where any tasks may be absent from a step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mtl_core.training.balancing.balancer import numbers

_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8


class TaskAdam:
    """Moves one number for each task against its gradient; a task that is left out of a step stays as it is.

    Args:
        start: Each task's number at the beginning.
        lr: The most that a number moves in a step, but for the first few.
        weight_decay: How much of each number is added to its gradient; default 0.

    Attributes:
        values: The numbers by task.

    Source:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, https://arxiv.org/abs/1412.6980.

    Example:
        >>> adam = TaskAdam({"a": 1.0, "b": 1.0}, lr=0.1)
        >>> adam.step({"a": 20.0})
        >>> {name: round(value, 3) for name, value in adam.values.items()}
        {'a': 0.9, 'b': 1.0}
    """

    def __init__(self, start: Mapping[str, float], lr: float, weight_decay: float = 0.0) -> None:
        self.values = dict(start)
        self._lr = lr
        self._weight_decay = weight_decay
        # The moments and the number of steps.
        self._state = dict.fromkeys(start, (0.0, 0.0, 0.0))

    def step(self, gradients: Mapping[str, float]) -> None:
        """Move the numbers of the tasks that have a gradient."""
        for name, gradient in gradients.items():
            slope = gradient + self._weight_decay * self.values[name]
            first, second, n = self._state[name]
            first = _BETA_1 * first + (1 - _BETA_1) * slope
            second = _BETA_2 * second + (1 - _BETA_2) * slope * slope
            n += 1
            self._state[name] = first, second, n
            mean, square = first / (1 - _BETA_1**n), second / (1 - _BETA_2**n)
            self.values[name] -= self._lr * mean / (math.sqrt(square) + _EPS)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return by ``adam:`` and task, in float64: its number, its moments and how many steps it took."""
        return {
            f"adam:{name}": torch.tensor([value, *self._state[name]], dtype=torch.float64)
            for name, value in self.values.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned, for the tasks that are known here."""
        for name in self.values.keys() & {key.removeprefix("adam:") for key in state}:
            self.values[name], first, second, n = numbers(state[f"adam:{name}"])
            self._state[name] = first, second, n
