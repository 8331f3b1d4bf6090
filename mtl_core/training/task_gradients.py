"""What each task alone would do to the parameters that it shares with others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from mtl_core.model.network import TaskNetwork


def shared_parameters(model: TaskNetwork, task_names: Iterable[str]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that at least two of some tasks train, by module.

    Args:
        model: The model.
        task_names: The tasks.

    Returns:
        For each module on the paths of two tasks or more, in the model's order, its parameters that want gradients;
        modules without any are left out, and a parameter that several modules own is listed at the first.
    """
    users: dict[nn.Parameter, set[str]] = {}
    for name in task_names:
        for module_name in model.modules_of(name):
            for parameter in model.module_pool[module_name].parameters():
                if parameter.requires_grad:
                    users.setdefault(parameter, set()).add(name)
    left = {parameter for parameter, names in users.items() if len(names) > 1}
    shared: dict[str, list[nn.Parameter]] = {}
    for module_name, module in model.module_pool.items():
        if mine := [parameter for parameter in module.parameters() if parameter in left]:
            shared[module_name] = mine
            left.difference_update(mine)
    return shared


def task_gradients(
    losses: Mapping[str, torch.Tensor], tensors: Sequence[torch.Tensor], *, retain_graph: bool = False
) -> torch.Tensor:
    """Return the gradient of each task's loss with respect to some tensors.

    Args:
        losses: Scalars by task, at least one.
        tensors: Parameters or other tensors of the losses' graph, of any shapes and one dtype, at least one.
        retain_graph: Whether the graph is still needed afterwards; default False.

    Returns:
        A row for each task, in the order of ``losses``, over all entries of the tensors in their order:
        ``[n_tasks, n_entries]``; 0 where a loss does not depend on a tensor.
    """
    rows: list[torch.Tensor] = []
    last = len(losses) - 1
    for i, loss in enumerate(losses.values()):
        gradients = torch.autograd.grad(
            loss, tensors, retain_graph=retain_graph or i < last, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)
