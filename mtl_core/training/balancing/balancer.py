"""What a balancer is: it makes one gradient of what many tasks want."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.model.cut import Cut
from mtl_core.model.network import TaskNetwork

Losses = Mapping[str, torch.Tensor]
"""A scalar by task."""

Scale = Callable[[torch.Tensor], torch.Tensor]
"""Multiplies a loss by what keeps its small gradients alive in float16."""


def numbers(tensor: torch.Tensor) -> list[float]:
    """Return the entries of a vector."""
    return cast("list[float]", tensor.tolist())


def by_name(names: Iterable[str], tensor: torch.Tensor) -> dict[str, float]:
    """Return the entries of a vector by the names that go with them."""
    return dict(zip(names, numbers(tensor), strict=True))


_LAST = "last:"


class Balancer(ABC):
    """Says how much each task counts in a step of training.

    A step has losses of any of the tasks, and at least of one. What is kept from step to step is kept by the tasks'
    names: their order means nothing, and a task without a label in a step keeps what it has.

    Attributes:
        needs_task_gradients: Whether each task's gradient is looked at by itself; float16 cannot be used then, since
            the scaled gradients overflow one by one.
        cuts: Whether the losses must be computed from a :class:`~mtl_core.model.cut.Cut` representation.
        wants_losses_again: Whether :meth:`after_step` must be called.
    """

    needs_task_gradients: ClassVar[bool] = False
    wants_losses_again: ClassVar[bool] = False
    cuts: bool = False

    def __init__(self) -> None:
        self._task_names: frozenset[str] = frozenset()
        self._last: dict[str, float] = {}

    def named_tasks(self) -> Mapping[str, Iterable[str]]:
        """Return the tasks that arguments name, by argument."""
        return {}

    def strangers(self, task_names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield each argument and task that it names which is none of some tasks."""
        for argument, names in self.named_tasks().items():
            yield from ((argument, name) for name in names if name not in task_names)

    def begin(self, model: TaskNetwork, task_names: Sequence[str]) -> None:
        """Get ready for a training; whatever was kept of another one is dropped.

        Args:
            model: What is trained.
            task_names: Its tasks that have labels to train on.

        Raises:
            TaskloomError: If an argument names a task that is none of them.
        """
        for argument, name in self.strangers(task_names):
            raise TaskloomError(
                f"balancing/{argument}: no task '{name}' is trained; there are {sorted(task_names)}"
            )
        self._task_names = frozenset(task_names)
        self._last = {}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what the optimizer is to train beside the model, by name; each name ends in its task's."""
        return {}

    @abstractmethod
    def backward(self, losses: Losses, cut: Cut | None, scale: Scale) -> None:
        """Add the gradient of one step to what the model's and the balancer's parameters have gathered.

        Args:
            losses: Scalars by task, at least one; each depends on a parameter that wants a gradient.
            cut: What the losses were computed from, where the balancer ``cuts``; else None.
            scale: To be called on a loss before its ``backward()``.

        Raises:
            TaskloomError: If the method cannot take a loss.
        """

    def after_step(self, losses_again: Callable[[], Losses]) -> None:  # noqa: B027 Most look forward only.
        """Take in what the optimizer's step did to the losses.

        Args:
            losses_again: Computes the losses of the step's batches anew, without a graph.
        """

    def end_epoch(self) -> None:  # noqa: B027 Most know no epochs.
        """Take in that an epoch is over."""

    def weights(self) -> dict[str, float]:
        """Return the weight by which each task's gradient was last multiplied; empty where there is no such number."""
        return dict(self._last)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is kept from step to step, but for parameters and random states, on the CPU.

        By ``last:`` and task, that is the task's last weight; what else there is, methods add.
        """
        return {
            f"{_LAST}{name}": torch.tensor(weight, dtype=torch.float64) for name, weight in self._last.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned, after :meth:`begin`; tasks that are none of this training's are
        passed over.
        """
        last = {key.removeprefix(_LAST): key for key in state if key.startswith(_LAST)}
        self._last = {name: state[key].item() for name, key in last.items() if name in self._task_names}


class LossWeighting(Balancer):
    """Balances by one factor for each loss: the gradient is that of their weighted sum, in all parameters."""

    def backward(self, losses: Losses, cut: Cut | None, scale: Scale) -> None:
        """Add the gradient of the weighted sum of the losses."""
        values = torch.stack(list(losses.values()))
        weights = self._weigh(by_name(losses, values.detach()))
        self._last |= weights
        factors = torch.tensor([weights[name] for name in losses], dtype=values.dtype, device=values.device)
        scale((factors * values).sum()).backward()

    @abstractmethod
    def _weigh(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return the weight of each task that has a loss in this step."""
