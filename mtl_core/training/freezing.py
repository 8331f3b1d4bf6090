"""Modules that stay exactly as they are while others train."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.parameter_groups import check_modules


class FrozenModules:
    """Modules without gradients and in evaluation mode, so that neither parameters nor buffers change.

    Attributes:
        names: The modules, in the order they were frozen.
    """

    def __init__(self, model: MultitaskClassifier) -> None:
        self._model = model
        self._wanted_gradients = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.names: list[str] = []

    def freeze(self, names: Iterable[str]) -> None:
        """Freeze further modules from now on."""
        for name in names:
            module = self._model.module_pool[name]
            module.requires_grad_(False)
            for parameter in module.parameters():
                # A gradient that is left over would go on moving the parameter.
                parameter.grad = None
            module.eval()
            self.names.append(name)

    def train(self) -> None:
        """Put the model in training mode, all but what is frozen."""
        self._model.train()
        for name in self.names:
            self._model.module_pool[name].eval()

    def thaw(self) -> None:
        """Give the parameters the gradients that they wanted before."""
        for parameter in self._wanted_gradients:
            parameter.requires_grad_(True)


@contextmanager
def freezing(model: MultitaskClassifier, names: Iterable[str]) -> Generator[FrozenModules]:
    """Freeze modules for the block; at its end the model's parameters want the gradients that they wanted before.

    Raises:
        TaskloomError: If the model lacks one of them.

    Example:
        >>> from torch import nn
        >>> from mtl_core import Operation, Task
        >>> model = MultitaskClassifier([Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])])
        >>> with freezing(model, ["head"]) as frozen:
        ...     frozen.train()
        ...     print(model.module_pool["head"].training)
        False
    """
    chosen = list(dict.fromkeys(names))
    check_modules("frozen_modules", chosen, model)
    frozen = FrozenModules(model)
    frozen.freeze(chosen)
    try:
        yield frozen
    finally:
        frozen.thaw()
