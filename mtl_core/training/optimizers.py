"""Optimizers: how gradients become steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.training.config import AdamaxConfig, AdamConfig, TrainerConfig
from mtl_core.training.parameter_groups import ParameterGroup

# Its kernels for many tensors have no public names.
_TORCH: Any = torch


class Optimizer(ABC):
    """Makes steps of gradients, each a few calls of kernels that take all parameters at once.

    A parameter without a gradient stays as it is, and so does what is kept for it. Those of ``torch.optim`` compute the
    same; but to construct one imports torch's compiler, which takes as long as torch itself.

    Args:
        groups: As of :func:`~mtl_core.training.parameter_groups.parameter_groups`.
        weight_decay: Of groups that have none of their own.
        parts: What is kept for each parameter beside the number of its steps, by name.

    Attributes:
        param_groups: The groups: ``params``, ``param_names``, ``lr``, ``scale`` and ``weight_decay``.
    """

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float, parts: Sequence[str]) -> None:
        self.param_groups: list[ParameterGroup] = []
        self._parts = parts
        self._kept: list[_Kept] = []
        for group in groups:
            names, parameters = zip(*group["params"], strict=True)
            rest = (
                {"weight_decay": weight_decay}
                | group
                | {"params": list(parameters), "param_names": list(names)}
            )
            self.param_groups.append(rest)
            self._kept.append(_Kept(parameters, len(parts)))
        self._step_all: Callable[[], None] | None = None
        self._places = {
            parameter: (number, index)
            for number, group in enumerate(self.param_groups)
            for index, parameter in enumerate(group["params"])
        }

    def zero_grad(self) -> None:
        """Take the gradients off all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Take a step along the gradients that parameters have."""
        if self._step_all is None:
            self._step_all = self.bound((), None, self._places)
        self._step_all()

    def n_steps(self, parameter: nn.Parameter) -> int:
        """Return how many steps a parameter has taken."""
        number, index = self._places[parameter]
        return int(self._kept[number].steps[index])

    def keeps_side_by_side(self, parameter: nn.Parameter) -> bool:
        """Say whether what is kept for the parameters of a parameter's group is in one piece, in their order."""
        return self._kept[self._places[parameter][0]].is_flat

    def bound(
        self, spans: Iterable[Span], divisor: torch.Tensor | None, others: Iterable[nn.Parameter] = ()
    ) -> Callable[[], None]:
        """Return what takes a step of some parameters along gradients that are always in one place.

        Args:
            spans: Parameters that are always stepped together, each span consecutive ones of a group.
            divisor: A number by which all gradients are divided first, a scalar; None for 1.
            others: Parameters that are stepped too, along the gradients that they then have, if any; default: none.
        """
        units = [
            _Unit(*self._places[span.parameters[0]], len(span.parameters), span.values, span.gradients, None)
            for span in spans
        ]
        units += [_Unit(*self._places[parameter], 1, parameter, None, parameter) for parameter in others]
        by_kind: dict[Any, list[_Unit]] = {}
        for unit in units:
            by_kind.setdefault((unit.group, unit.values.device, unit.values.dtype), []).append(unit)
        updates = [self._bound_update(of_kind, divisor) for of_kind in by_kind.values()]

        def step() -> None:
            for update in updates:
                update()

        # The other parameters are updated as they are, which autograd is not to see.
        return torch.no_grad()(step) if any(unit.parameter is not None for unit in units) else step

    def _bound_update(self, units: list[_Unit], divisor: torch.Tensor | None) -> Callable[[], None]:
        """Return what updates the parameters of one group, device and dtype."""
        group, kept = self.param_groups[units[0].group], self._kept[units[0].group]
        values = [unit.values for unit in units]
        steps, *parts = kept.of_ranges([unit.indices for unit in units])
        parts = [[of.view_as(like) for of, like in zip(part, values, strict=True)] for part in parts]
        everywhere = kept.places([unit.indices for unit in units])
        fixed = [unit.gradients for unit in units]
        are_fixed = all(unit.parameter is None for unit in units)

        def update() -> None:
            gradients = fixed if are_fixed else [unit.current_gradients() for unit in units]
            at, now = everywhere, cast("Any", [values, gradients, steps, *parts])
            if not are_fixed and any(gradient is None for gradient in gradients):
                found = [place for place, gradient in enumerate(gradients) if gradient is not None]
                if not found:
                    return
                at = kept.places([units[place].indices for place in found])
                now = [[of[place] for place in found] for of in now]
            kept.steps[at] += 1
            self._update(group, *now, divisor=divisor)

        return update

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU, of what is kept for the parameters that have been stepped.

        Returns:
            By ``{parameter}:{part}``: tensors of the parameter's shape, and its number of steps as ``step``.
        """
        found: dict[str, torch.Tensor] = {}
        for group, kept in zip(self.param_groups, self._kept, strict=True):
            for index, name in enumerate(group["param_names"]):
                if kept.steps[index]:
                    named = zip(("step", *self._parts), kept.of(index), strict=True)
                    found |= {f"{name}:{part}": value.detach().to("cpu", copy=True) for part, value in named}
        return found

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            TaskloomError: If it names other parameters or parts, or has another shape; the optimizer stays as it was.
        """
        places: dict[str, torch.Tensor] = {}
        for group, kept in zip(self.param_groups, self._kept, strict=True):
            for index, name in enumerate(group["param_names"]):
                named = zip(("step", *self._parts), kept.of(index), strict=True)
                places |= {f"{name}:{part}": value for part, value in named}
        for key, value in state.items():
            if key not in places:
                raise TaskloomError(f"the optimizer keeps nothing called '{key}'")
            if places[key].shape != value.shape:
                shapes = f"{list(value.shape)} should be {list(places[key].shape)}"
                raise TaskloomError(
                    f"the saved optimizer does not fit the model: its shape of '{key}' {shapes}"
                )
        for key, value in state.items():
            places[key].copy_(value)

    @abstractmethod
    def _update(
        self,
        group: ParameterGroup,
        values: list[torch.Tensor],
        gradients: list[Any],
        *kept: Any,
        divisor: torch.Tensor | None = None,
    ) -> None:
        """Take a step with tensors of one dtype and device.

        Args:
            group: Their group.
            values: The parameters' values.
            gradients: Their gradients.
            *kept: The numbers of their steps, counting this one, and each of the parts; a list of tensors each.
            divisor: By what to divide the gradients first; default: nothing. They may be overwritten.
        """


@dataclass(frozen=True)
class Span:
    """Consecutive parameters of a group that lie one after the other in memory.

    Attributes:
        parameters: The parameters.
        values: All their values, ``[n]``.
        gradients: All their gradients, ``[n]``.
    """

    parameters: Sequence[nn.Parameter]
    values: torch.Tensor
    gradients: torch.Tensor


@dataclass(frozen=True)
class _Unit:
    """Parameters of a group that are updated as one tensor, or one whose gradient is where autograd puts it."""

    group: int
    start: int
    n: int
    values: torch.Tensor
    gradients: torch.Tensor | None
    parameter: nn.Parameter | None

    @property
    def indices(self) -> range:
        """Which parameters of the group they are."""
        return range(self.start, self.start + self.n)

    def current_gradients(self) -> torch.Tensor | None:
        """Return the gradients, laid out in memory as the values are: the kernels look at nothing but memory."""
        if self.parameter is None or self.parameter.grad is None:
            return self.gradients
        gradient = self.parameter.grad
        if gradient.stride() == self.values.stride():
            return gradient
        return torch.empty_like(self.values).copy_(gradient)


class _Kept:
    """What an optimizer keeps for the parameters of one group.

    Attributes:
        steps: How many steps each has taken, ``[n]``.
        is_flat: Whether the parts of all are one tensor, in the order of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], n_parts: int) -> None:
        kinds = {(parameter.device, parameter.dtype) for parameter in parameters}
        sizes = [parameter.numel() for parameter in parameters]
        self._ends = [0, *accumulate(sizes)]
        self.is_flat = len(kinds) == 1 and all(parameter.is_contiguous() for parameter in parameters)
        self._flat: list[torch.Tensor] = []
        self._parts: list[list[torch.Tensor]] = []
        for _ in range(n_parts):
            if self.is_flat:
                flat = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
                self._flat.append(flat)
                views = zip(cast("Any", flat).split(sizes), parameters, strict=True)
                self._parts.append([values.view(parameter.shape) for values, parameter in views])
            else:
                self._parts.append([torch.zeros_like(parameter) for parameter in parameters])
        # Counting is one call. On the CPU it goes through numpy, whose calls are cheaper.
        device = parameters[0].device
        self.steps: Any = torch.zeros(len(parameters), dtype=torch.float32, device=device)
        self._step_of = list(self.steps.unbind())
        if device.type == "cpu":
            self.steps = self.steps.numpy()

    def places(self, ranges: Iterable[range]) -> Any:
        """Return what picks the numbers of steps of some parameters."""
        at = [index for of in ranges for index in of]
        if at == list(range(at[0], at[-1] + 1)):
            return slice(at[0], at[-1] + 1)
        return np.array(at, dtype=np.int64) if isinstance(self.steps, np.ndarray) else torch.tensor(at)

    def of(self, index: int) -> list[torch.Tensor]:
        """Return the number of a parameter's steps, and its parts."""
        return [values[index] for values in (self._step_of, *self._parts)]

    def of_ranges(self, ranges: Sequence[range]) -> list[list[torch.Tensor]]:
        """Return the same for parameters that have been stepped equally often, each range of them as one tensor."""
        if self.is_flat:
            parts = [
                [flat[self._ends[of.start] : self._ends[of.stop]] for of in ranges] for flat in self._flat
            ]
        else:
            parts = [[part[of.start] for of in ranges] for part in self._parts]
        return [[self._step_of[of.start] for of in ranges], *parts]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``."""

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float, momentum: float) -> None:
        super().__init__(groups, weight_decay, ["momentum_buffer"] if momentum else [])
        self._momentum = momentum

    def _update(
        self,
        group: ParameterGroup,
        values: list[torch.Tensor],
        gradients: list[Any],
        *kept: Any,
        divisor: torch.Tensor | None = None,
    ) -> None:
        _TORCH._fused_sgd_(
            *(values, gradients, kept[1] if self._momentum else []),
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=self._momentum,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            grad_scale=divisor,
        )


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``: weight decay is part of the gradient.

    Source: Kingma and Ba, Adam, 2015; ``amsgrad``: Reddi, Kale and Kumar, On the Convergence of Adam and Beyond, 2018.
    """

    _kernel = staticmethod(_TORCH._fused_adam_)

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float, config: AdamConfig) -> None:
        parts = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if config.amsgrad else [])]
        super().__init__(groups, weight_decay, parts)
        self._config = config

    def _update(
        self,
        group: ParameterGroup,
        values: list[torch.Tensor],
        gradients: list[Any],
        *kept: Any,
        divisor: torch.Tensor | None = None,
    ) -> None:
        steps, means, squares, *largest = kept
        self._kernel(
            *(values, gradients, means, squares, largest[0] if largest else [], steps),
            lr=group["lr"],
            beta1=self._config.betas[0],
            beta2=self._config.betas[1],
            weight_decay=group["weight_decay"],
            eps=self._config.eps,
            amsgrad=self._config.amsgrad,
            maximize=False,
            grad_scale=divisor,
        )


class AdamW(Adam):
    """Adam with weight decay beside the gradient, as ``torch.optim.AdamW``.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    _kernel = staticmethod(_TORCH._fused_adamw_)


class Adamax(Optimizer):
    """Adam with the largest gradient in the place of their mean square, as ``torch.optim.Adamax``.

    Source: Kingma and Ba, Adam, 2015, section 7.1.
    """

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float, config: AdamaxConfig) -> None:
        super().__init__(groups, weight_decay, ["exp_avg", "exp_inf"])
        self._config = config

    def _update(
        self,
        group: ParameterGroup,
        values: list[torch.Tensor],
        gradients: list[Any],
        *kept: Any,
        divisor: torch.Tensor | None = None,
    ) -> None:
        steps, means, largest = kept
        beta1, beta2 = self._config.betas
        if divisor is not None:
            gradients = _TORCH._foreach_div(gradients, divisor)
        if group["weight_decay"]:
            gradients = _TORCH._foreach_add(gradients, values, alpha=group["weight_decay"])
        _TORCH._foreach_lerp_(means, gradients, 1 - beta1)
        sizes = _TORCH._foreach_abs(gradients)
        _TORCH._foreach_add_(sizes, self._config.eps)
        _TORCH._foreach_mul_(largest, beta2)
        _TORCH._foreach_maximum_(largest, sizes)
        rates = [-group["lr"] / (1 - beta1 ** step.item()) for step in steps]
        _TORCH._foreach_addcdiv_(values, means, largest, rates)


def build_optimizer(config: TrainerConfig, groups: Iterable[ParameterGroup]) -> Optimizer:
    """Return the optimizer that ``config.optimizer`` names.

    Args:
        config: The trainer's settings.
        groups: As of :func:`~mtl_core.training.parameter_groups.parameter_groups`.

    Raises:
        TaskloomError: If there is nothing to train.
    """
    trained = list(groups)
    if not trained:
        raise TaskloomError("the model has no parameter to train")
    settings = config.optimizer_config
    match config.optimizer:
        case "sgd":
            return SGD(trained, config.l2, settings.sgd_config.momentum)
        case "adam":
            return Adam(trained, config.l2, settings.adam_config)
        case "adamw":
            return AdamW(trained, config.l2, settings.adam_config)
        case "adamax":
            return Adamax(trained, config.l2, settings.adamax_config)
