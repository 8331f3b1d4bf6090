"""FAMO: weights that follow from what each step did to the losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from mtl_core.errors import TaskloomError
from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing.balancer import Losses, LossWeighting, by_name
from mtl_core.training.balancing.task_adam import TaskAdam

_EPSILON = 1e-8


class FAMO(LossWeighting):
    """Weights under which all losses fall at like rates, learned from what each step did to the losses.

    A task of share ``z`` and loss ``l`` above its least has a weight in proportion to ``z / l``, and the weights of a
    step add up to the number of its tasks. Shares are a softmax, over the step's tasks, of numbers that an Adam of
    their own moves after every step; those of other tasks stay. Needs the losses of each step's batches a second time.

    Args:
        lr: Learning rate of the shares; default 0.025, range (0, 1].
        weight_decay: How strongly the shares are drawn to equal ones; default 0.001, range [0, 1].
        min_losses: By task, a number that its loss stays above; default: 0 for all.

    Source:
        Liu et al., FAMO: Fast Adaptive Multitask Optimization, 2023, https://arxiv.org/abs/2306.03792, algorithm 1.
    """

    wants_losses_again = True

    def __init__(
        self, lr: float = 0.025, weight_decay: float = 0.001, min_losses: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        self._lr = lr
        self._weight_decay = weight_decay
        self._min_losses = dict(min_losses or {})
        self._logits = TaskAdam({}, lr)
        self._before: dict[str, float] = {}

    def named_tasks(self) -> Mapping[str, Iterable[str]]:
        """Return the tasks that least losses are given for."""
        return {"min_losses": self._min_losses}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Set all shares equal."""
        super().begin(model, task_names)
        self._logits = TaskAdam(dict.fromkeys(sorted(task_names), 0.0), self._lr, self._weight_decay)
        self._before = {}

    def after_step(self, losses_again: Callable[[], Losses]) -> None:
        """Lower the shares of tasks whose losses fell more than others', and raise those of the rest."""
        after = {name: loss.item() for name, loss in losses_again().items() if name in self._before}
        if not all(math.isfinite(value) for value in after.values()):
            return
        shares = self._shares(list(after))
        fallen = {
            name: math.log(self._before[name]) - math.log(max(self._above(name, value), _EPSILON))
            for name, value in after.items()
        }
        mean = sum(shares[name] * fallen[name] for name in after)
        self._logits.step({name: shares[name] * (fallen[name] - mean) for name in after})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the shares and their Adam's state."""
        return super().state_dict() | self._logits.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._logits.load_state_dict(state)

    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        self._before = {name: self._above(name, value) for name, value in losses.items()}
        for name, above in self._before.items():
            if above <= 0:
                raise TaskloomError(
                    f"famo takes losses above their least alone: that of task '{name}' is {losses[name]:g}; give"
                    " balancing/min_losses a number for it that is lower"
                )
        shares = self._shares(list(losses))
        slopes = {name: shares[name] / self._before[name] for name in losses}
        total = sum(slopes.values())
        return {name: len(losses) * slope / total for name, slope in slopes.items()}

    def _above(self, name: str, loss: float) -> float:
        return loss - self._min_losses.get(name, 0.0) + _EPSILON

    def _shares(self, names: Sequence[str]) -> dict[str, float]:
        logits = torch.tensor([self._logits.values[name] for name in names], dtype=torch.float64)
        return by_name(names, logits.softmax(0))
