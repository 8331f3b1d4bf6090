"""Heads that start at what the training labels are like, rather than at chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

import torch
from torch import nn

from mtl_core.data import Batch, DictDataLoader, is_given
from mtl_core.losses import BinaryCrossEntropy, CrossEntropy, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.scaling import ScaledLoss
from mtl_core.task import LossFunction

# A class or answer that no label has counts half a label: the logarithm of nothing is no number.
_LEAST_COUNT = 0.5


def set_class_priors(
    model: MultitaskClassifier,
    dataloaders: Sequence[DictDataLoader],
    modules: Collection[str] | None = None,
) -> list[str]:
    """Set the biases of the tasks' last linear layers to the best answer that knows the labels but no input.

    That is the logarithm of the classes' shares under cross-entropy, the log-odds of each output under binary
    cross-entropy, and the labels' mean under the losses of regression. The weights stay as they are.

    Args:
        model: Its modules are changed in place.
        dataloaders: The splits whose labels count: those that are trained on.
        modules: The modules that may be changed; default: all.

    Returns:
        A line for each task that has labels, in the model's order: what was set, or why nothing was.

    Raises:
        OperationError: If an operation fails on the first example.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017, section 3.3, for the idea.

    Example:
        >>> from mtl_core import DictDataset, Operation, Task
        >>> head = nn.Linear(2, 2)
        >>> model = MultitaskClassifier([Task("t", {"head": head}, [Operation("head", [("_input_", "x")])])], device=-1)
        >>> data = DictDataset("d", "train", {"x": torch.zeros(4, 2)}, {"t": torch.tensor([0, 1, 1, 1])})
        >>> set_class_priors(model, [DictDataLoader(data)])
        ["task 't': module 'head' starts at the shares of its 2 classes in 4 labels"]
        >>> model.module_pool["head"].bias.detach().exp()
        tensor([0.2500, 0.7500])
    """
    allowed = set(model.module_pool if modules is None else modules)
    lines: list[str] = []
    for task_name, task in model.tasks.items():
        loaders = [
            loader for loader in dataloaders if task_name in loader.dataset.Y_dict and len(loader.dataset)
        ]
        label_sets = [loader.dataset.Y_dict[task_name] for loader in loaders]
        if not label_sets:
            continue
        try:
            module_name, head = _head(model, task_name, loaders[0], allowed)
            what = _set_bias(head, label_sets, task.loss_func)
            lines.append(f"task '{task_name}': module '{module_name}' starts at {what}")
        except _LeftError as reason:
            lines.append(f"task '{task_name}': its head is left as it is: {reason}")
    return lines


class _LeftError(Exception):
    """Why a task's head does not start at its labels' shares."""


def _head(
    model: MultitaskClassifier, task_name: str, loader: DictDataLoader, allowed: Collection[str]
) -> tuple[str, nn.Linear]:
    """Return the linear layer that gives a task's output, with the name of the module that it is in."""
    layers = {
        layer: name
        for name in model.modules_of(task_name)
        for layer in model.module_pool[name].modules()
        if isinstance(layer, nn.Linear)
    }
    answers: list[tuple[nn.Linear, torch.Tensor]] = []

    def keep(layer: nn.Module, _: object, answer: torch.Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        answers.append((layer, answer))

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        output = _first_output(model, task_name, loader)
    finally:
        for hook in hooks:
            hook.remove()
    # An answer that was only given another shape on its way to the output is still the same memory.
    heads = [layer for layer, answer in answers if _is_same(answer, output)]
    if not heads:
        raise _LeftError("its output is not that of a linear layer")
    head, name = heads[-1], layers[heads[-1]]
    # One that only reads the answer, as the combiner of slices does, takes whatever it starts at.
    others = [other for other in model.tasks if other != task_name and _answers_by(model, other, name)]
    if others:
        raise _LeftError(f"module '{name}' gives the answers of task '{others[0]}' too")
    if name not in allowed:
        raise _LeftError(f"module '{name}' has its weights from elsewhere")
    if head.bias is None:  # pyright: ignore[reportUnnecessaryComparison] Linear(bias=False) has None there.
        raise _LeftError(f"the last linear layer of module '{name}' has no bias")
    if not head.bias.requires_grad:
        raise _LeftError(f"module '{name}' is frozen")
    return name, head


def _answers_by(model: MultitaskClassifier, task_name: str, module_name: str) -> bool:
    """Say whether the module that gives a task's output is a given one, under whichever name its weights stand."""
    last = model.module_pool[model.tasks[task_name].op_sequence[-1].module_name]
    weights = {id(parameter) for parameter in model.module_pool[module_name].parameters()}
    return any(id(parameter) in weights for parameter in last.parameters())


def _first_output(model: MultitaskClassifier, task_name: str, loader: DictDataLoader) -> object:
    """Return what a task's path answers to a dataset's first example, changing nothing of the model."""
    # Not from the loader, which may draw random numbers for its order.
    batch = cast("Batch", loader.collate_fn([loader.dataset[0]]))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            return model(batch[0], [task_name])[task_name, model.tasks[task_name].output_op]
    finally:
        for module in training:
            module.training = True


def _is_same(answer: torch.Tensor, output: object) -> bool:
    return (
        isinstance(output, torch.Tensor)
        and output.numel() == answer.numel()
        and output.data_ptr() == answer.data_ptr()
    )


def _set_bias(head: nn.Linear, label_sets: Iterable[torch.Tensor], loss_func: LossFunction) -> str:
    """Set a layer's bias as the loss wants it, and return what it is now."""
    if not isinstance(loss_func, Loss):
        raise _LeftError("its loss is none of the catalogue")
    if isinstance(loss_func, ScaledLoss):
        label_sets = [loss_func.scaled(labels) for labels in label_sets]
        loss_func = loss_func.loss
    prior = _PRIORS.get(type(loss_func))
    if prior is None:
        raise _LeftError(f"there is no rule for the loss {type(loss_func).__name__}")
    bias, what = prior(head.out_features, [labels.detach().cpu() for labels in label_sets])
    with torch.no_grad():
        # An output without any label has no best answer: its bias stays.
        head.bias.copy_(torch.where(bias.isnan().to(head.bias.device), head.bias, bias.to(head.bias)))
    return what


def _class_shares(n_classes: int, label_sets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, str]:
    counts, n = torch.zeros(n_classes, dtype=torch.float64), 0
    for labels in label_sets:
        if labels.is_floating_point():
            if labels.ndim != 2 or labels.shape[1] != n_classes:
                raise _LeftError(f"labels of shape {list(labels.shape)} do not fit its {n_classes} outputs")
            rows = labels[is_given(labels).all(dim=1)]
            counts += rows.sum(dim=0, dtype=torch.float64)
            n += len(rows)
        else:
            given = labels[is_given(labels)].long()
            if labels.squeeze().ndim > 1 or (len(given) and int(given.max()) >= n_classes):
                raise _LeftError(f"its labels do not fit its {n_classes} outputs")
            counts += torch.bincount(given, minlength=n_classes)
            n += len(given)
    if not n:
        raise _LeftError("it has no label")
    counts = counts.clamp(min=_LEAST_COUNT)
    return (counts / counts.sum()).log(), f"the shares of its {n_classes} classes in {n} labels"


def _log_odds(n_outputs: int, label_sets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, str]:
    positive, n = _sums(n_outputs, label_sets)
    positive = positive.clamp(min=_LEAST_COUNT).minimum(n - _LEAST_COUNT)
    odds = torch.where(n > 0, positive / (n - positive), torch.nan)
    return odds.log(), f"the log-odds of {int(n.sum())} labels"


def _means(n_outputs: int, label_sets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, str]:
    total, n = _sums(n_outputs, label_sets)
    return torch.where(n > 0, total / n, torch.nan), f"the mean of {int(n.sum())} labels"


def _sums(n_outputs: int, label_sets: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of each output's labels ``[n_outputs]`` and how many are given ``[n_outputs]``."""
    total = torch.zeros(n_outputs, dtype=torch.float64)
    n = torch.zeros(n_outputs, dtype=torch.float64)
    for labels in label_sets:
        rows = labels.reshape(len(labels), -1)
        if rows.shape[1] != n_outputs:
            raise _LeftError(f"labels of shape {list(labels.shape)} do not fit its {n_outputs} outputs")
        given = is_given(rows)
        total += torch.where(given, rows, 0).sum(dim=0, dtype=torch.float64)
        n += given.sum(dim=0)
    if not bool(n.any()):
        raise _LeftError("it has no label")
    return total, n


_PRIORS: dict[type[Loss], Callable[[int, Sequence[torch.Tensor]], tuple[torch.Tensor, str]]] = {
    CrossEntropy: _class_shares,
    BinaryCrossEntropy: _log_odds,
    MeanSquaredError: _means,
    MeanAbsoluteError: _means,
    Huber: _means,
}
