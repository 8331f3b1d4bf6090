"""A task is a path through a network: modules, the operations that chain them, and how to judge the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.losses import CrossEntropy
from mtl_core.outputs import Output, Softmax, as_output
from mtl_core.scoring.scorer import Scorer

INPUT: Final = "_input_"
"""The name that stands for the batch's own fields among an operation's inputs."""

WEIGHTS: Final = "_weights_"
"""The key under which a batch's fields hold one weight for each example, float32 ``[n]``; it is no field itself."""

OpInput = str | tuple[str, str | int]
"""An earlier operation's name, or ``(operation, index or key)``, or ``("_input_", field)``."""

LossFunction = Callable[[Any, torch.Tensor], torch.Tensor]
"""``(outputs [n, …], labels [n, …]) → scalar loss``, averaged over the ``n`` labelled examples.

Outputs are what the task's last operation answers: a tensor, or a tuple or dict of tensors. Only a
:class:`~mtl_core.losses.Loss` takes example weights too.
"""


class Operation:
    """One step of a task: a module and where its inputs come from.

    Args:
        module_name: The module to call, by its name in the task's module pool.
        inputs: In the order of the module's arguments: ``("_input_", field)`` for a field of the batch,
            the name of an earlier operation for its whole output, ``(operation, index)`` for one entry of a
            tuple or dict output. An empty list hands the module one dict of every field (under
            ``"_input_"``) and of every earlier operation's output.
        name: The operation's name within its task; default: ``module_name``.

    Raises:
        TaskloomError: If an input is neither a name nor a pair.

    Example:
        >>> Operation("base_mlp", [("_input_", "circle_data")])
        Operation(name='base_mlp', module_name='base_mlp', inputs=[('_input_', 'circle_data')])
    """

    def __init__(
        self, module_name: str, inputs: Iterable[OpInput | list[str | int]], name: str | None = None
    ) -> None:
        self.module_name = module_name
        self.name = name or module_name
        if isinstance(inputs, str):
            # A string is an iterable of strings, too: each letter would pass for an operation's name.
            raise TaskloomError(f"operation '{self.name}': inputs is a list, not the string {inputs!r}")
        self.inputs: list[OpInput] = [_checked_input(self.name, entry) for entry in inputs]

    def __repr__(self) -> str:
        return f"Operation(name={self.name!r}, module_name={self.module_name!r}, inputs={self.inputs!r})"


def _checked_input(op_name: str, entry: Any) -> OpInput:
    if isinstance(entry, str):
        return entry
    match entry:
        case (str() as source, str() | int() as key):
            return (source, key)
        case _:
            raise TaskloomError(
                f"operation '{op_name}': an input is an operation's name or a pair (operation, index),"
                f" not {entry!r}"
            )


class Task:
    """A path through a network, with its loss, output function and scorer.

    Args:
        name: The task's name, to which datasets bind their labels.
        module_pool: The modules that the task uses, by name. Modules of one name are one module in a model,
            whichever tasks declare them.
        op_sequence: The operations in the order they run; the last one's output is the task's output.
        scorer: What to measure; default: accuracy.
        loss_func: ``(outputs [n, …], labels [n, …]) → scalar``; default: cross-entropy.
        output_func: Outputs to probabilities (or predicted values); default: softmax. A named
            :class:`~mtl_core.outputs.Output` also says how probabilities become predictions; with any other
            callable that is the argmax over dimension 1.

    Raises:
        TaskloomError: If an operation names a module, or an earlier operation, that the task does not have,
            or two operations have one name.
    """

    def __init__(
        self,
        name: str,
        module_pool: Mapping[str, nn.Module] | nn.ModuleDict,
        op_sequence: Iterable[Operation],
        scorer: Scorer | None = None,
        loss_func: LossFunction | None = None,
        output_func: Output | Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        self.name = name
        self.module_pool: dict[str, nn.Module] = dict(module_pool.items())
        self.op_sequence = list(op_sequence)
        self.scorer = scorer or Scorer(metrics=["accuracy"])
        self.loss_func: LossFunction = loss_func or CrossEntropy()
        self.output_func: Output = as_output(output_func) if output_func else Softmax()
        self.check()

    def check(self) -> None:
        """Check that operations name modules and earlier operations that there are.

        Raises:
            TaskloomError: If one does not, there are none, or two have one name.
        """
        if not self.op_sequence:
            raise TaskloomError(f"task '{self.name}' has no operations")
        known: set[str] = {INPUT}
        for op in self.op_sequence:
            if op.module_name not in self.module_pool:
                raise TaskloomError(
                    f"task '{self.name}': operation '{op.name}' uses module '{op.module_name}',"
                    f" which its module pool {sorted(self.module_pool)} lacks"
                )
            for entry in op.inputs:
                source = entry if isinstance(entry, str) else entry[0]
                if source not in known:
                    raise TaskloomError(
                        f"task '{self.name}': operation '{op.name}' reads '{source}',"
                        " which is no earlier operation"
                    )
            if op.name in known:
                raise TaskloomError(f"task '{self.name}' has two operations named '{op.name}'")
            known.add(op.name)

    @property
    def output_op(self) -> str:
        """The name of the operation whose output is the task's."""
        return self.op_sequence[-1].name

    @property
    def fields(self) -> list[str]:
        """The fields of a batch that the task's operations name, in order of first use."""
        pairs = [entry for op in self.op_sequence for entry in op.inputs if not isinstance(entry, str)]
        return list(dict.fromkeys(str(field) for source, field in pairs if source == INPUT))

    def __repr__(self) -> str:
        return f"Task(name={self.name!r}, op_sequence={self.op_sequence!r})"
