"""Compare the architectures of two modules, whatever their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, cast

from torch import nn
from torch.nn.parameter import is_lazy

_BOOKKEEPING = {"training", "call_super_init", "dump_patches"}


def difference(first: nn.Module, second: nn.Module, path: str = "") -> str | None:
    """Say where two modules differ in class, settings, parameter shapes or children.

    Args:
        first: A module.
        second: The module to hold against it.
        path: Where in the declared module the two stand, for the message.

    Returns:
        The first difference in words, or None where the two are the same architecture.

    Example:
        >>> difference(nn.Linear(2, 8), nn.Linear(2, 8)) is None
        True
        >>> difference(nn.Linear(2, 8), nn.Linear(2, 4))
        'out_features is 8 in one and 4 in the other'
    """
    if first is second:
        return None
    where = f"{path}: " if path else ""
    if type(first) is not type(second):
        return f"{where}{type(first).__name__} in one and {type(second).__name__} in the other"
    ours, theirs = _settings(first), _settings(second)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            return f"{where}{name} is {ours.get(name)} in one and {theirs.get(name)} in the other"
    our_children, their_children = dict(first.named_children()), dict(second.named_children())
    if list(our_children) != list(their_children):
        ours_text, theirs_text = (", ".join(names) or "none" for names in (our_children, their_children))
        return f"{where}inner modules {ours_text} in one and {theirs_text} in the other"
    for name, child in our_children.items():
        found = difference(child, their_children[name], f"{path}.{name}" if path else name)
        if found:
            return found
    return None


def spec_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Say where two canonical module specs differ, None where they are equal.

    Example:
        >>> spec_difference({"type": "Linear", "out_features": 8}, {"type": "Linear", "out_features": 4})
        'out_features is 8 in one and 4 in the other'
    """
    ours, theirs = _leaves(first), _leaves(second)
    for path in dict.fromkeys((*ours, *theirs)):
        left, right = ours.get(path, "absent"), theirs.get(path, "absent")
        if left != right:
            return f"{path} is {left} in one and {right} in the other"
    return None


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the scalars of nested objects and lists by their dotted paths."""
    pairs: Iterable[tuple[object, Any]]
    if isinstance(value, dict):
        pairs = cast("dict[object, Any]", value).items()
    elif isinstance(value, list):
        pairs = enumerate(cast("list[Any]", value))
    else:
        return {path: value}
    return {
        leaf: scalar
        for key, item in pairs
        for leaf, scalar in _leaves(item, f"{path}.{key}" if path else str(key)).items()
    }


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module was built with: plain attributes, and the shape and dtype of its own tensors."""
    plain = {
        name: f"{value.__module__}.{value.__qualname__}" if isinstance(value, FunctionType) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _BOOKKEEPING and _is_plain(value)
    }
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return plain | {
        name: f"{tensor.dtype} {'of an open shape' if is_lazy(tensor) else list(tensor.shape)}"
        for name, tensor in tensors
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, cast("Sequence[object]", value)))
    return value is None or isinstance(value, int | float | str | bool | FunctionType)
