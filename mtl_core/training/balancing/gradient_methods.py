"""What the methods have in common that look at each task's gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from mtl_core.model.cut import Cut
from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing.balancer import Balancer, Losses, Scale, by_name
from mtl_core.training.balancing.task_jacobian import TaskJacobian

On = Literal["parameters", "representation"]
"""Where gradients are compared: on the parameters that tasks share, or on what these hand on to each task."""


class GradientMethod(Balancer):
    """Balances on each task's gradient of what it shares with other tasks of the step.

    A task takes part if its gradient there is not 0; where fewer than two do, and where one is not finite, the
    gradient is that of the plain sum of the losses.

    On ``"parameters"`` gradients are compared exactly, at the cost of one backward pass for each task. On
    ``"representation"`` they are compared on the outputs of the last operations that the tasks share, and one backward
    pass takes what they make of it to the parameters before: with the singular values of that pass as the only
    difference, what is small or free of conflict there is nearly so in the parameters. Where tasks come in batches of
    their own, they share no operation, and their gradients are compared on the parameters after all.

    Args:
        on: Where; default ``"parameters"``.

    Source:
        Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, 2018,
        https://arxiv.org/abs/1810.04650, section 3.3, for the representation in the parameters' place.
    """

    needs_task_gradients = True

    def __init__(self, on: On = "parameters") -> None:
        self.cuts = on == "representation"
        super().__init__()
        self._model: TaskNetwork | None = None

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Forget another training."""
        super().begin(model, task_names)
        self._model = model

    def backward(self, losses: Losses, cut: Cut | None, scale: Scale) -> None:
        """Add what the method makes of the gradients to those of the parameters."""
        assert self._model is not None, "begin() comes before backward()"
        jacobian = TaskJacobian(self._model, losses, cut)
        gramian = jacobian.gramian()
        moving = gramian.diagonal() > 0
        if int(moving.sum()) < 2 or not bool(gramian.isfinite().all()):
            jacobian.accumulate(jacobian.rows.sum(0))
            return
        self._balance(jacobian, gramian, moving, losses)

    @abstractmethod
    def _balance(
        self, jacobian: TaskJacobian, gramian: torch.Tensor, moving: torch.Tensor, losses: Losses
    ) -> None:
        """Accumulate a gradient.

        Args:
            jacobian: Of all tasks of the step.
            gramian: Of its rows, float64 ``[n_tasks, n_tasks]`` on the CPU, finite.
            moving: Which of the rows are not 0, bool ``[n_tasks]`` on the CPU; at least two.
            losses: Scalars by task.
        """


class Combiner(GradientMethod):
    """Combines the gradients of shared parameters; each task's own parameters get its plain gradient.

    Where the tasks' gradients are one and the same, the combined one is their sum, as without balancing, so that
    learning rates mean the same for all methods.
    """

    def _balance(
        self, jacobian: TaskJacobian, gramian: torch.Tensor, moving: torch.Tensor, losses: Losses
    ) -> None:
        names = [name for name, moves in zip(jacobian.names, moving, strict=True) if moves]
        rows = jacobian.rows
        if len(names) < len(rows):
            rows, gramian = rows[moving.to(rows.device)], gramian[moving][:, moving]
        jacobian.accumulate(self._combine(rows, gramian, names))

    @abstractmethod
    def _combine(self, rows: torch.Tensor, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return one gradient ``[n_entries]`` for those of some tasks, ``[n_tasks, n_entries]``."""


class GramianCombiner(Combiner):
    """A combiner whose gradient is a weighted sum, with weights that follow from the gradients' products."""

    sums_to_number_of_tasks: ClassVar[bool] = False
    """Whether only the direction is the method's: its weights are then scaled to add up to the number of tasks."""

    def _combine(self, rows: torch.Tensor, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        # Losses of any size are of the size that the solvers' tolerances are made for.
        weights = self._weigh(gramian / gramian.diagonal().mean(), names)
        if self.sums_to_number_of_tasks:
            weights = weights * (len(names) / weights.sum())
        self._last |= by_name(names, weights)
        return weights.to(rows) @ rows

    @abstractmethod
    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Return the tasks' weights, ``[n_tasks]``, by their Gramian, scaled to a mean of 1 on its diagonal."""
