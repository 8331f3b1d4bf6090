"""A task's loss on a batch: over its labelled examples, weighted where the batch has weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mtl_core.errors import MODULE_FAILURES, LossError, TaskloomError
from mtl_core.losses import Loss
from mtl_core.model.devices import map_tensors
from mtl_core.task import WEIGHTS, Task


def task_loss(
    task: Task,
    outputs: Any,
    labels: torch.Tensor,
    labelled: torch.Tensor | None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a task's loss over the labelled examples of a batch.

    Args:
        task: Whose loss function to call.
        outputs: What its last operation answered: a tensor ``[n, …]``, or a tuple or dict of them.
        labels: ``[n, …]``, on any device.
        labelled: Which examples have a label, booleans ``[n]``, at least one of them true; None where all have.
        weights: One for each example, float32 ``[n]``; default: all 1.

    Returns:
        The scalar loss.

    Raises:
        LossError: If the loss function cannot take them, or a tensor among the outputs has not one row for each
            example.
    """
    if weights is not None and not isinstance(task.loss_func, Loss):
        raise LossError(task.name, "it takes no example weights, as only the losses of the catalogue do")
    outputs = _rows(task.name, outputs, labelled, len(labels))
    labels = _chosen(labels, labelled).to(_device_of(outputs, labels.device))
    given = () if weights is None else (_chosen(weights, labelled),)
    try:
        return task.loss_func(outputs, labels, *given)
    except MODULE_FAILURES as error:
        shapes = map_tensors(outputs, lambda tensor: list(tensor.shape))
        shown = f"outputs of shape {shapes} and labels of shape {list(labels.shape)}"
        raise LossError(task.name, f"{type(error).__name__}: {error} ({shown})") from error


def mean_loss(task: Task, loss: float, n: int) -> float:
    """Return a task's loss for one example, where ``loss`` is that of ``n`` labelled ones together.

    Only a loss of the catalogue may be a sum, and says so.
    """
    is_sum = isinstance(task.loss_func, Loss) and task.loss_func.reduction == "sum"
    return loss / n if is_sum else loss


def example_weights(X_dict: Mapping[str, Any]) -> torch.Tensor | None:
    """Return a batch's example weights ``[n]``, None where it has none.

    Raises:
        TaskloomError: If they are not one finite number of at least 0 for each example.
    """
    if WEIGHTS not in X_dict:
        return None
    weights = torch.as_tensor(X_dict[WEIGHTS])
    n = {len(values) for name, values in X_dict.items() if name != WEIGHTS}
    if (
        weights.ndim != 1
        or {len(weights)} != n
        or not bool((weights >= 0).all() and weights.isfinite().all())
    ):
        raise TaskloomError(
            f"the weights under '{WEIGHTS}' should be finite and at least 0, one for each example"
        )
    return weights


def _rows(task_name: str, outputs: Any, labelled: torch.Tensor | None, n: int) -> Any:
    """Return the labelled rows of every tensor in a task's outputs; single numbers stay as they are."""

    def of_tensor(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim:
            return tensor
        if len(tensor) != n:
            reason = f"its outputs need a row for each of {n} examples, and one is of shape"
            raise LossError(task_name, f"{reason} {list(tensor.shape)}")
        return _chosen(tensor, labelled)

    return map_tensors(outputs, of_tensor)


def _chosen(tensor: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return tensor if rows is None else tensor[rows.to(tensor.device)]


def _device_of(outputs: Any, default: torch.device) -> torch.device:
    found: list[torch.device] = []
    map_tensors(outputs, lambda tensor: found.append(tensor.device))
    return found[0] if found else default
