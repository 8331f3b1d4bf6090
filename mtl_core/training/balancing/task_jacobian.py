"""Each task's gradient of what it shares with others in a step, and the way back from one combined gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from mtl_core.model.cut import Cut
from mtl_core.model.network import TaskNetwork
from mtl_core.training.balancing.balancer import Losses
from mtl_core.training.task_gradients import shared_parameters

_Gradients = Sequence[torch.Tensor | None]


class TaskJacobian:
    """The gradients of some losses, one row for each task, in all that two of the tasks or more share.

    Shared are the parameters on the paths of several of the tasks. With a cut, the representation stands for all
    parameters before it; parameters of several tasks that come after it, as of a module that they apply to different
    inputs, stay as they are. The gradients of parameters that one task alone trains are kept beside.

    The gradients of all tasks are in memory at once. Each is computed once, and the losses' graph is used up.

    Args:
        model: The model.
        losses: Scalars by task, at least one.
        cut: What the losses were computed from, or None.

    Attributes:
        names: The tasks in alphabetical order, whatever that of the losses.
        rows: ``[n_tasks, n_entries]``, float32, or float64 where a gradient is; 0 where a loss does not depend on an
            entry.
    """

    def __init__(self, model: TaskNetwork, losses: Losses, cut: Cut | None = None) -> None:
        self.names = sorted(losses)
        shared = [p for of_module in shared_parameters(model, self.names).values() for p in of_module]
        leaves = cut.leaves if cut else []
        self._own = _own_parameters(model, self.names, set(shared))
        tensors = [*leaves, *shared]
        by_task: list[_Gradients] = []
        for name in self.names:
            by_task.append(
                torch.autograd.grad(
                    losses[name],
                    [*tensors, *self._own[name]],
                    retain_graph=name != self.names[-1],
                    allow_unused=True,
                )
            )
        self._own_gradients = {
            name: gradients[len(tensors) :] for name, gradients in zip(self.names, by_task, strict=True)
        }
        # With a cut, no loss depends on the parameters before it.
        used = [k for k in range(len(tensors)) if any(gradients[k] is not None for gradients in by_task)]
        self._cut_outputs = [cut.outputs[k] for k in used if k < len(leaves)] if cut else []
        self._shared = [tensors[k] for k in used if k >= len(leaves)]
        self.rows = _as_rows([[gradients[k] for k in used] for gradients in by_task], self._targets)

    @property
    def _targets(self) -> list[torch.Tensor]:
        return [*self._cut_outputs, *self._shared]

    def gramian(self) -> torch.Tensor:
        """Return the products of each two rows, ``[n_tasks, n_tasks]``, float64 on the CPU."""
        return (self.rows @ self.rows.T).double().cpu()

    def accumulate(self, combined: torch.Tensor, factors: Mapping[str, float] | None = None) -> None:
        """Add gradients to those of the model's parameters.

        Args:
            combined: What the shared entries get, ``[n_entries]``; through the cut it goes back to all that is before.
            factors: By which those of the tasks' own parameters are multiplied; default: all 1.
        """
        for name, parameters in self._own.items():
            factor = factors[name] if factors else 1.0
            for parameter, gradient in zip(parameters, self._own_gradients[name], strict=True):
                if gradient is not None:
                    # The product is a tensor of its own: two parameters may have been given one gradient.
                    _add(parameter, gradient * factor)
        parts = [
            part.view_as(tensor).to(tensor.dtype)
            for part, tensor in zip(_split(combined, self._targets), self._targets, strict=True)
        ]
        n_outputs = len(self._cut_outputs)
        for parameter, gradient in zip(self._shared, parts[n_outputs:], strict=True):
            _add(parameter, gradient)
        if self._cut_outputs:
            torch.autograd.backward(self._cut_outputs, parts[:n_outputs])


def _own_parameters(
    model: TaskNetwork, task_names: Sequence[str], shared: set[nn.Parameter]
) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that want gradients of one task alone, by task."""
    own = {
        name: [
            parameter
            for module_name in model.modules_of(name)
            for parameter in model.module_pool[module_name].parameters()
            if parameter.requires_grad and parameter not in shared
        ]
        for name in task_names
    }
    # Modules of one task may share a parameter, as tied weights are.
    return {name: list(dict.fromkeys(parameters)) for name, parameters in own.items()}


def _as_rows(by_task: Sequence[_Gradients], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    double = any(tensor.dtype == torch.float64 for tensor in targets)
    rows = torch.zeros(
        (len(by_task), sum(tensor.numel() for tensor in targets)),
        dtype=torch.float64 if double else torch.float32,
        device=targets[0].device if targets else None,
    )
    for row, gradients in zip(rows, by_task, strict=True):
        for part, gradient in zip(_split(row, targets), gradients, strict=True):
            if gradient is not None:
                part.copy_(gradient.flatten())
    return rows


def _split(entries: torch.Tensor, targets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return cast("tuple[torch.Tensor, ...]", entries.split([tensor.numel() for tensor in targets]))


def _add(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
