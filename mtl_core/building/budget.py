"""How large a task or model may be, and how large it is."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtl_core.errors import SpecError, pointer_to

# A service's settings hold limits, and are read by processes that never need torch.
if TYPE_CHECKING:
    from torch import nn

    from mtl_core.task import Task


@dataclass(frozen=True)
class Limits:
    """What a spec may ask for at most.

    Attributes:
        max_parameters: Numbers held by all modules of a task or model together.
        max_activations: Numbers that one example takes on its way through a task, all layers together.
        max_layers: Layers of a task's modules, as :func:`~mtl_core.modules.count_layers` counts them.
    """

    max_parameters: int = 100_000_000
    max_activations: int = 50_000_000
    max_layers: int = 512


def check_budget(parameters: Mapping[str, int], limits: Limits, brought: Container[str] = ()) -> None:
    """Refuse modules that together hold more numbers than the limits allow.

    Args:
        parameters: Numbers that each module holds, by its name.
        limits: How many they may hold.
        brought: Modules that slices bring, which stand in no pool; default: none.

    Raises:
        SpecError: Naming the largest module, or pointing to the slices where that is one of theirs.
    """
    if (total := sum(parameters.values())) > limits.max_parameters:
        largest = max(parameters, key=lambda name: parameters[name])
        detail = f"{total:,} parameters in all, {parameters[largest]:,} of them here"
        at = "/slices" if largest in brought else pointer_to("module_pool", largest)
        raise SpecError.at(at, f"{detail}; at most {limits.max_parameters:,}")


def count_parameters(tasks: Iterable[Task]) -> dict[str, int]:
    """Return how many numbers each module of some tasks holds, one with several names only under the first."""
    counted: dict[str, int] = {}
    seen: set[nn.Module] = set()
    for name, module in (item for task in tasks for item in task.module_pool.items()):
        if name not in counted:
            counted[name] = 0 if module in seen else count_numbers(module)
            seen.add(module)
    return counted


def count_numbers(module: nn.Module) -> int:
    """Return how many numbers a module's parameters and buffers hold; a layer whose size is open counts none."""
    from torch.nn.modules.lazy import LazyModuleMixin  # noqa: PLC0415

    layers = [layer for layer in module.modules() if not isinstance(layer, LazyModuleMixin)]
    tensors = [(*layer.parameters(recurse=False), *layer.buffers(recurse=False)) for layer in layers]
    return sum(tensor.numel() for of_layer in tensors for tensor in of_layer)
