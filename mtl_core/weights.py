"""A model's weights as named tensors, module by module: each can be stored and put back alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from mtl_core.classifier import MultitaskClassifier
from mtl_core.errors import TaskloomError


def module_weights(model: MultitaskClassifier) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers, on the CPU and contiguous, as safetensors stores them.

    Returns:
        Tensors by ``{module name}/{path in the module}``, such as ``base_mlp/0.weight``.

    Example:
        >>> from mtl_core import Operation, Task
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> sorted(module_weights(MultitaskClassifier([task])))
        ['head/bias', 'head/weight']
    """
    # Copies, because on the CPU a view would go on changing with the training.
    return {
        key: tensor.detach().to("cpu", copy=True).contiguous()
        for name, module in model.module_pool.items()
        for key, tensor in _tensors(name, module).items()
    }


def load_module_weights(
    model: MultitaskClassifier, weights: Mapping[str, torch.Tensor], modules: Iterable[str] | None = None
) -> None:
    """Put weights back, bit for bit, into the model; what belongs to other modules is passed over.

    Args:
        model: A model that has the modules.
        weights: What :func:`module_weights` answered, for a model with modules of the same architectures.
        modules: Names of the modules to load; default: all that the model has.

    Raises:
        TaskloomError: If the model lacks a module, or a tensor is missing, unexpected, or of another shape or
            dtype; names module and tensor, and leaves the model as it was.
    """
    owned = {name: _tensors(name, module) for name, module in model.module_pool.items()}
    others = {key for tensors in owned.values() for key in tensors}
    chosen = list(owned) if modules is None else list(modules)
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name in chosen:
        if name not in owned:
            raise TaskloomError(f"the model has no module '{name}'; it has {sorted(owned)}")
        for key in weights:
            if key.startswith(f"{name}/") and key not in others:
                raise TaskloomError(f"module '{name}': it has no tensor '{key}'")
        for key, tensor in owned[name].items():
            if key not in weights:
                raise TaskloomError(f"module '{name}': tensor '{key}' is missing")
            if (weights[key].shape, weights[key].dtype) != (tensor.shape, tensor.dtype):
                ours, theirs = (f"{t.dtype} {list(t.shape)}" for t in (tensor, weights[key]))
                raise TaskloomError(f"module '{name}': tensor '{key}' is {ours}, not {theirs}")
            copies.append((tensor, weights[key]))
    with torch.no_grad():
        for tensor, source in copies:
            tensor.copy_(source)


def _tensors(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    # Tied tensors count under each of their names, so that every module is complete in itself.
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    return {f"{name}/{path}": tensor for path, tensor in named}
