"""Methods that combine the tasks' gradients, most of them torchjd's.

torchjd and SciPy are loaded when they are first needed: they take longer to load than the rest of this library.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, cast

import numpy as np
import torch

from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing import solvers
from mtl_core.training.balancing.balancer import numbers
from mtl_core.training.balancing.gradient_methods import Combiner, GramianCombiner, On

# One is kept for each set of tasks that come together, and each holds a compiled program.
_MAX_BARGAINS = 32
_BARGAIN = "bargain:"

# No multiple of another gradient turns one all the way to it.
_LEAST_SINE = 1e-6


class PCGrad(GramianCombiner):
    """Takes from each task's gradient what is against another task's, one after the other in random order; sums up.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, 2020, https://arxiv.org/abs/2001.06782, algorithm 1.
    """

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        return _aggregation().PCGradWeighting()(gramian)


class GradVac(GramianCombiner):
    """Turns each task's gradient towards another's until their cosine is its running mean, in random order; sums up.

    The running means are kept for each two tasks, and move only in steps that have labels of both. They begin at 0,
    where the method is PCGrad.

    Args:
        beta: The share of a running mean that is renewed in a step; default 0.01, range [0, 1].
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Wang et al., Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual
        Models, 2021, https://arxiv.org/abs/2010.05874, algorithm 1.
    """

    def __init__(self, beta: float = 0.01, on: On = "parameters") -> None:
        super().__init__(on)
        self._beta = beta
        self._targets: dict[str, dict[str, float]] = {}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Set all running means to 0."""
        super().begin(model, task_names)
        names = sorted(task_names)
        self._targets = {name: {other: 0.0 for other in names if other != name} for name in names}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return by ``targets:`` and task its running means with the others, in alphabetical order, float64."""
        return super().state_dict() | {
            f"targets:{name}": torch.tensor(list(targets.values()), dtype=torch.float64)
            for name, targets in self._targets.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        saved = sorted(key.removeprefix("targets:") for key in state if key.startswith("targets:"))
        for name in saved:
            others = (other for other in saved if other != name)
            for other, target in zip(others, numbers(state[f"targets:{name}"]), strict=True):
                if name in self._targets and other in self._targets:
                    self._targets[name][other] = target

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        products = gramian.numpy()
        lengths: list[float] = [math.sqrt(square) for square in products.diagonal()]
        total = np.zeros(len(names))
        for i, name in enumerate(names):
            weights = np.eye(len(names))[i]
            for j in map(int, torch.randperm(len(names))):
                if j == i:
                    continue
                along = weights @ products
                length = math.sqrt(max(float(along @ weights), 0.0))
                if length > 0:
                    cosine = min(max(float(along[j]) / (length * lengths[j]), -1.0), 1.0)
                    weights[j] += length / lengths[j] * self._turn(name, names[j], cosine)
            total += weights
        return torch.from_numpy(total)

    def _turn(self, name: str, other: str, cosine: float) -> float:
        """Renew a running mean; return what of the other's unit gradient turns the task's to what the mean was."""
        target = self._targets[name][other]
        self._targets[name][other] = (1 - self._beta) * target + self._beta * cosine
        if cosine >= target:
            return 0.0
        sine, target_sine = math.sqrt(1 - cosine**2), math.sqrt(1 - target**2)
        return (target * sine - cosine * target_sine) / max(target_sine, _LEAST_SINE)


class GradDrop(Combiner):
    """Draws a sign for each entry, the likelier the more the gradients have it, and sums those entries that have it.

    Args:
        leak: The share of each gradient that is summed whatever its sign; default 0, range [0, 1].
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, 2020,
        https://arxiv.org/abs/2010.06808, algorithm 1.
    """

    def __init__(self, leak: float = 0.0, on: On = "parameters") -> None:
        super().__init__(on)
        self._leak = leak

    def _combine(self, rows: torch.Tensor, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        leak = torch.full((len(rows),), self._leak, dtype=rows.dtype, device=rows.device)
        return _aggregation().GradDrop(leak=leak)(rows)


class MGDA(GramianCombiner):
    """The shortest gradient in the convex hull of the tasks': no task is against it, and it is 0 where none can gain.

    The weights add up to the number of tasks. They are solved exactly, since the descent of every task hangs on that.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Désidéri, Multiple-gradient descent algorithm (MGDA) for multiobjective optimization, 2012,
        https://doi.org/10.1016/j.crma.2012.03.014; Sener and Koltun, Multi-Task Learning as Multi-Objective
        Optimization, 2018, https://arxiv.org/abs/1810.04650.
    """

    sums_to_number_of_tasks = True

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(solvers.min_norm_weights(gramian.numpy()))


class CAGrad(GramianCombiner):
    """The gradient near the mean one under which the task that gains least gains most.

    It is scaled by the number of tasks over ``1 + c``, and so never longer than the sum. From ``c = 1`` on no task is
    against it; below, it still leads to where the sum does.

    Args:
        c: How far from the mean gradient it may be, as a share of that one's length; default 0.4, range [0, 10].
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, 2021, https://arxiv.org/abs/2110.14048,
        algorithm 1.
    """

    def __init__(self, c: float = 0.4, on: On = "parameters") -> None:
        super().__init__(on)
        self._c = c

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        weights = solvers.conflict_averse_weights(gramian.numpy(), self._c)
        return torch.from_numpy(weights) * (len(names) / (1 + self._c))


class IMTLG(GramianCombiner):
    """The gradient that gains as much along each task's direction, times the number of tasks.

    Where gradients are nearly opposed it may be very long, or against all tasks: clip it.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Liu et al., Towards Impartial Multi-task Learning, 2021, https://openreview.net/forum?id=IMPnRXEWpvr.
    """

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        # In the precision of the gradients, what is noise in their products has no inverse.
        return _aggregation().IMTLGWeighting()(gramian.float()) * len(names)


class AlignedMTL(GramianCombiner):
    """The sum of the gradients once these are turned and scaled until they are at right angles and of one length.

    Args:
        scale: To which of the lengths along the principal directions: ``"min"``, ``"median"``, or ``"rmse"`` for the
            root of the mean square; default ``"min"``.
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, 2023,
        https://arxiv.org/abs/2305.19000, algorithm 1.
    """

    def __init__(self, scale: Literal["min", "median", "rmse"] = "min", on: On = "parameters") -> None:
        super().__init__(on)
        self._scale = scale

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        # In the precision of the gradients, what is noise in their products is no principal direction.
        return _aggregation().AlignedMTLWeighting(scale_mode=self._scale)(gramian.float()) * len(names)


class FairGrad(GramianCombiner):
    """The gradient that shares out the tasks' gains fairly, in the sense of alpha-fairness.

    The weights add up to the number of tasks: the method gives a direction. With ``alpha`` 1 it is Nash-MTL's, and
    with a large one it is MGDA's. No task is against it, as far as the solver gets.

    Args:
        alpha: From proportional fairness, 1, to that of the task which gains least, infinity; default 1, range
            [0.1, 100].
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Ban and Ji, Fair Resource Allocation in Multi-Task Learning, 2024, https://arxiv.org/abs/2402.15638,
        algorithm 1.
    """

    sums_to_number_of_tasks = True

    def __init__(self, alpha: float = 1.0, on: On = "parameters") -> None:
        super().__init__(on)
        self._alpha = alpha

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        return _aggregation().FairGradWeighting(alpha=self._alpha)(gramian)


class UPGrad(GramianCombiner):
    """The sum of the gradients after each is brought to the nearest one that no task is against.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, https://arxiv.org/abs/2406.16232.
    """

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        return _aggregation().UPGradWeighting(projector=_projector())(gramian) * len(names)


class DualProj(GramianCombiner):
    """The nearest gradient to the sum that no task is against.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, 2017,
        https://arxiv.org/abs/1706.08840, equation 11.
    """

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        return _aggregation().DualProjWeighting(projector=_projector())(gramian) * len(names)


class ConFIG(GramianCombiner):
    """The direction at the same angle to all gradients, as long as these are along it together.

    Args:
        on: Where gradients are compared; default ``"parameters"``.

    Source:
        Liu et al., ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, 2024,
        https://arxiv.org/abs/2408.11104, equation 2.
    """

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        # The direction turns with the gradients: it is that of any rows with the same products, here as few as can be.
        rows = torch.from_numpy(solvers.root(gramian.numpy()))
        combined = _aggregation().ConFIG()(rows)
        return cast("torch.Tensor", torch.linalg.solve(rows.T, combined))


class NashMTL(GramianCombiner):
    """The gradient that the tasks agree on when they bargain over it, after Nash.

    The weights add up to the number of tasks: the method gives a direction. Needs CVXPY and ECOS, of which the latter
    is licensed under the GPL: ``pip install "taskloom[nash]"``. ``fairgrad`` with ``alpha`` 1 has the same solution
    without them, and more exactly: this method's solver may stop short of it.

    Args:
        max_iterations: Of the solver, in a step; default 20, range [1, 1000].
        on: Where gradients are compared; default ``"parameters"``.

    Raises:
        ValueError: If CVXPY or ECOS is not installed.

    Source:
        Navon et al., Multi-Task Learning as a Bargaining Game, 2022, https://arxiv.org/abs/2202.01017, algorithm 1.
    """

    sums_to_number_of_tasks = True

    def __init__(self, max_iterations: int = 20, on: On = "parameters") -> None:
        missing = [name for name in ("cvxpy", "ecos") if find_spec(name) is None]
        if missing:
            raise ValueError(f"needs {' and '.join(missing)}: pip install 'taskloom[nash]', or use fairgrad")
        super().__init__(on)
        self._max_iterations = max_iterations
        self._bargains: dict[tuple[str, ...], Any] = {}

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Forget earlier bargains."""
        super().begin(model, task_names)
        self._bargains = {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return where each bargain ended, by ``bargain:`` and its tasks as a JSON list."""
        return super().state_dict() | {
            f"{_BARGAIN}{json.dumps(names)}": torch.tensor(bargain.weighting.prvs_alpha)
            for names, bargain in self._bargains.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        for key in (key for key in state if key.startswith(_BARGAIN)):
            names = tuple(json.loads(key.removeprefix(_BARGAIN)))
            if self._task_names.issuperset(names):
                self._bargains[names] = self._bargain(len(names))
                self._bargains[names].weighting.prvs_alpha = state[key].numpy()

    def _weigh(self, gramian: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        # Where a step's bargain begins is where the last one among the same tasks ended.
        key = tuple(names)
        bargain = self._bargains[key] = self._bargains.pop(key, None) or self._bargain(len(names))
        if len(self._bargains) > _MAX_BARGAINS:
            del self._bargains[next(iter(self._bargains))]
        # The bargain does not depend on the gradients' lengths, but its solver copes best with equal ones.
        lengths = gramian.diagonal().sqrt()
        units = torch.from_numpy(solvers.root(gramian.numpy())) / lengths[:, None]
        return cast("torch.Tensor", bargain.weighting(units)) / lengths

    def _bargain(self, n_tasks: int) -> Any:
        return _aggregation().NashMTL(n_tasks=n_tasks, max_norm=0.0, optim_niter=self._max_iterations)


def _aggregation() -> Any:
    return importlib.import_module("torchjd.aggregation")


def _projector() -> Any:
    from mtl_core.training.balancing.projector import NonNegativeProjector  # noqa: PLC0415

    return NonNegativeProjector()
