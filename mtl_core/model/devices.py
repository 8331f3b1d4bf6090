"""Where a model computes: one device, or the GPUs of one machine side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import data_parallel


@dataclass(frozen=True)
class ClassifierConfig:
    """Where a :class:`~mtl_core.MultitaskClassifier` computes.

    Attributes:
        device: -1 for the CPU; 0 and up for the GPU of that number, or the CPU where torch finds no GPU; a name such as
            ``"cuda:1"`` or a ``torch.device`` is taken as it is. Default 0.
        dataparallel: Whether a model on a GPU spreads every batch over all GPUs of the machine; default True. It makes
            no difference to one GPU or the CPU, nor to the names of the weights.
    """

    device: int | str | torch.device = 0
    dataparallel: bool = True

    def resolved(self) -> torch.device:
        """Return the device that is meant, on this machine."""
        if not isinstance(self.device, int):
            return torch.device(self.device)
        on_gpu = self.device >= 0 and torch.cuda.is_available()
        return torch.device("cuda", self.device) if on_gpu else torch.device("cpu")


def gpus_beside(device: torch.device) -> list[int]:
    """Return the numbers of all GPUs of the machine, that of ``device`` first; none where it is no GPU."""
    if device.type != "cuda":
        return []
    first = torch.zeros((), device=device).get_device()
    return [first, *(gpu for gpu in range(torch.cuda.device_count()) if gpu != first)]


def call(module: nn.Module, inputs: Sequence[Any], gpus: Sequence[int] = ()) -> Any:
    """Call a module, each of several GPUs on its share of the batch.

    Args:
        module: On the first of the GPUs, where there are any.
        inputs: Its arguments; tensors ``[n, …]`` are dealt out along dimension 0, in dicts and tuples too.
        gpus: Which GPUs to use; with fewer than two, the module is called where it is.

    Returns:
        The module's output, gathered on the first GPU.
    """
    if len(gpus) < 2:
        return module(*inputs)
    return data_parallel(module, tuple(inputs), list(gpus), gpus[0])


def numbers_of(scalars: Sequence[torch.Tensor]) -> list[Any]:
    """Return the numbers of tensors of one element each; where all are on one GPU, it is waited for once."""
    devices = {scalar.device for scalar in scalars}
    if len(devices) != 1 or any(device.type == "cpu" for device in devices):
        return [scalar.item() for scalar in scalars]
    return cast("list[Any]", torch.stack([scalar.detach().view(()) for scalar in scalars]).tolist())


def to_device(value: Any, device: torch.device) -> Any:
    """Return ``value`` with every tensor in it on ``device``, in nested dicts, lists and tuples too.

    Example:
        >>> to_device({"x": [torch.zeros(2)], "text": "a"}, torch.device("cpu"))
        {'x': [tensor([0., 0.])], 'text': 'a'}
    """
    return map_tensors(value, lambda tensor: tensor.to(device))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Return ``value`` with ``change`` done to every tensor in it, in nested dicts, lists and tuples too."""
    if isinstance(value, torch.Tensor):
        return change(value)
    match cast("object", value):
        case Mapping():
            return {key: map_tensors(item, change) for key, item in value.items()}
        case list():
            return [map_tensors(item, change) for item in value]
        case tuple():
            items = [map_tensors(item, change) for item in value]
            # A named tuple takes its items one by one.
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        case _:
            return value
