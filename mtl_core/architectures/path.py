"""A task's path as it is laid out: modules and the operations through them, each added once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mtl_core.architectures.outline import TaskOutline
from mtl_core.task import INPUT

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]
Norm = Literal["batch", "layer"]

_ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "tanh": "Tanh",
}


@dataclass(frozen=True)
class Signal:
    """What flows from one operation to the next.

    Attributes:
        source: As an operation's input names it.
        size: Numbers of each example, ``[B, size]``; None where the data tells it.
    """

    source: str | tuple[str, str | int]
    size: int | None


@dataclass(frozen=True)
class Style:
    """What stands between the linear layers of an architecture.

    Attributes:
        activation: After each of them.
        norm: Before the activation; None: no norm.
        dropout: Probability with which a number is dropped after the activation.
    """

    activation: Activation
    norm: Norm | None
    dropout: float

    def linear(self, size_in: int | None, size: int) -> list[dict[str, Any]]:
        """Return a linear layer and its norm."""
        layers = [linear(size_in, size)]
        if self.norm == "batch":
            layers.append({"type": "BatchNorm1d", "num_features": size})
        elif self.norm == "layer":
            layers.append({"type": "LayerNorm", "normalized_shape": [size]})
        return layers

    def activate(self) -> list[dict[str, Any]]:
        """Return the activation and the dropout after it."""
        layers: list[dict[str, Any]] = [{"type": _ACTIVATIONS[self.activation]}]
        if self.dropout:
            layers.append({"type": "Dropout", "p": self.dropout})
        return layers

    def stack(self, size_in: int | None, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """Return linear layers of these sizes, all with norm, activation and dropout."""
        layers: list[dict[str, Any]] = []
        for size in sizes:
            layers += [*self.linear(size_in, size), *self.activate()]
            size_in = size
        return layers


@dataclass
class Path:
    """A task's modules and operations so far; an operation is named as its module.

    Attributes:
        task: The task.
        tasks: All tasks of the model in order.
        style: What stands between linear layers.
        modules: Module specs by name.
        operations: Operations in order.
    """

    task: TaskOutline
    tasks: Sequence[TaskOutline]
    style: Style
    modules: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    operations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def __contains__(self, module: str) -> bool:
        return module in self.modules

    def add(self, module: str, spec: dict[str, Any], inputs: Sequence[Signal], size: int | None) -> Signal:
        """Lead the path through a module, unless it goes through it already; return what comes out."""
        if module not in self.modules:
            self.modules[module] = spec
            sources = [signal.source for signal in inputs]
            self.operations.append({"name": module, "module_name": module, "inputs": sources})
        return Signal(module, size)

    def add_stack(self, module: str, x: Signal, sizes: Sequence[int]) -> Signal:
        """Lead the path through linear layers of these sizes."""
        return self.add(module, sequential(self.style.stack(x.size, sizes)), [x], sizes[-1])

    def add_head(self, task: TaskOutline, x: Signal) -> Signal:
        """Lead the path through a task's head."""
        n_outputs = task.n_outputs()
        size_in = task.head[-1] if task.head else x.size
        layers = [*self.style.stack(x.size, task.head), linear(size_in, n_outputs)]
        return self.add(f"head_{task.name}", sequential(layers), [x], n_outputs)

    def read(self, fields: Sequence[str]) -> Signal:
        """Return what comes out of one field, or of several side by side."""
        read = [Signal((INPUT, name), None) for name in fields]
        return read[0] if len(read) == 1 else self.add("inputs", {"type": "Concat"}, read, None)


def linear(size_in: int | None, size: int) -> dict[str, Any]:
    """Return a linear layer, lazy where the size of its input is not known."""
    if size_in is None:
        return {"type": "LazyLinear", "out_features": size}
    return {"type": "Linear", "in_features": size_in, "out_features": size}


def sequential(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return layers one after the other as one module."""
    return layers[0] if len(layers) == 1 else {"type": "Sequential", "layers": layers}
