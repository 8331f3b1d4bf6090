"""A model's weights as named tensors, module by module: each can be stored and put back alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import cast

import safetensors.torch
import torch
from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.files import read_tensors, written_whole
from mtl_core.model.network import TaskNetwork


def module_weights(model: TaskNetwork) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers, on the CPU and contiguous, as safetensors stores them.

    Returns:
        Tensors by ``{module name}/{path in the module}``, such as ``base_mlp/0.weight``.

    Example:
        >>> from mtl_core import MultitaskClassifier, Operation, Task
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
    model: TaskNetwork,
    weights: Mapping[str, torch.Tensor],
    modules: Iterable[str] | Mapping[str, str] | None = None,
) -> None:
    """Put weights back, bit for bit, into the model; what belongs to other modules is passed over.

    Args:
        model: A model that has the modules.
        weights: What :func:`module_weights` answered, for a model with modules of the same architectures.
        modules: Names of the modules to load; of a mapping, each module of the model by the name of the one in
            ``weights`` that it takes after. Default: all that the model has.

    Raises:
        TaskloomError: If the model lacks a module, or a tensor is missing, unexpected, or of another shape or
            dtype; names module and tensor, and leaves the model as it was.
    """
    sources = _sources(model, modules)
    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, source in sources.items():
        if name not in model.module_pool:
            raise TaskloomError(f"the model has no module '{name}'; it has {sorted(model.module_pool)}")
        owned = _tensors(source, model.module_pool[name])
        called = f"module '{name}'" if name == source else f"module '{name}' (from '{source}')"
        for key in weights:
            if _module_of(key) == source and key not in owned:
                raise TaskloomError(f"{called}: it has no tensor '{key}'")
        for key, tensor in owned.items():
            if key not in weights:
                raise TaskloomError(f"{called}: tensor '{key}' is missing")
            if (weights[key].shape, weights[key].dtype) != (tensor.shape, tensor.dtype):
                ours, theirs = (f"{t.dtype} {list(t.shape)}" for t in (tensor, weights[key]))
                raise TaskloomError(f"{called}: tensor '{key}' is {ours}, not {theirs}")
            copies.append((tensor, weights[key]))
    with torch.no_grad():
        for tensor, source_tensor in copies:
            tensor.copy_(source_tensor)


def save_weights(model: TaskNetwork, path: str | os.PathLike[str]) -> None:
    """Write a model's weights to a safetensors file, whole or not at all; missing folders are made."""
    with written_whole(path) as scratch:
        scratch.write_bytes(safetensors.torch.save(module_weights(model)))


def load_weights(model: TaskNetwork, path: str | os.PathLike[str]) -> None:
    """Read what :func:`save_weights` wrote for a model of the same modules, or leave the model as it was.

    Raises:
        FileNotFoundError: If there is no such file.
        TaskloomError: If it is no safetensors file, or does not hold just the tensors of the model's modules.
    """
    name = os.fspath(path)
    weights, _ = read_tensors(name)
    if strange := sorted({_module_of(key) for key in weights} - set(model.module_pool)):
        raise TaskloomError(
            f"'{name}' has a module '{strange[0]}', which the model lacks; it has {sorted(model.module_pool)}"
        )
    load_module_weights(model, weights)


def _sources(model: TaskNetwork, modules: Iterable[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Return which module of the weights each module to be loaded takes after."""
    if isinstance(modules, Mapping):
        return dict(cast("Mapping[str, str]", modules))
    return {name: name for name in (model.module_pool if modules is None else modules)}


def _module_of(key: str) -> str:
    return key.rpartition("/")[0]


def _tensors(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    # Tied tensors count under each of their names, so that every module is complete in itself.
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    return {f"{name}/{path}": tensor for path, tensor in named}
