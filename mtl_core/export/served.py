"""Some tasks of a model as one module: fields in, all that is answered of each task out."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtl_core.errors import MODULE_FAILURES, ExportError, TaskloomError
from mtl_core.model.inference import KINDS, answer_in_place
from mtl_core.model.network import TaskNetwork
from mtl_core.model.plan import EverythingInput, FieldInput
from mtl_core.outputs import Output
from mtl_core.slicing.combiner import SliceCombinerModule


class ServedTasks(nn.Module):
    """Some tasks of a model as a module of its own, with copies of their weights, on the CPU and in evaluation mode.

    Operations that several of the tasks need are one, and modules that none of them needs are not there.

    Args:
        network: The model; it stays as it is.
        tasks: Names of its tasks.

    Attributes:
        tasks: The tasks, in the order of the answers.
        fields: Names of the fields that are read, in the order of first use; None where a module reads all there are.

    Raises:
        TaskloomError: If the model lacks a task, or none is named.

    Example:
        >>> from mtl_core import MultitaskClassifier, Operation, Task
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> served = ServedTasks(MultitaskClassifier([task], device=-1), ["t"])
        >>> {name: tuple(values.shape) for name, values in served({"x": torch.zeros(3, 4)}).items()}
        {'t.logits': (3, 2), 't.probs': (3, 2), 't.preds': (3,)}
    """

    def __init__(self, network: TaskNetwork, tasks: Sequence[str]) -> None:
        super().__init__()
        for name in tasks:
            if name not in network.tasks:
                raise TaskloomError(
                    f"model '{network.name}' has no task '{name}'; it has {network.task_names}"
                )
        if not tasks:
            raise TaskloomError("no task is named")
        self.tasks = list(dict.fromkeys(tasks))
        self._outputs = {name: network.tasks[name].output_func for name in self.tasks}
        self._plan = network.plan
        nodes = [network.plan.nodes[node] for node in network.plan.schedule(self.tasks)]
        names = [source.name for node in nodes for source in node.sources if isinstance(source, FieldInput)]
        # A combiner of slices is given all, too, but looks at operations only.
        reads_all = None in names or any(
            isinstance(source, EverythingInput)
            and not isinstance(network.module_pool[node.module_name], SliceCombinerModule)
            for node in nodes
            for source in node.sources
        )
        self.fields = None if reads_all else list(dict.fromkeys(str(name) for name in names))
        pool = {node.module_name: network.module_pool[node.module_name] for node in nodes}
        # Any name is good for a task's module, but what a graph calls its weights must be Python's.
        self._attributes = {
            name: f"m{i}_{re.sub(r'[^0-9A-Za-z_]', '_', name)}" for i, name in enumerate(pool)
        }
        # Of one copy, so that tensors which are tied stay tied.
        copied = _plain(copy.deepcopy(nn.ModuleList(pool.values()))).cpu().eval()
        for name, module in zip(pool, copied, strict=True):
            self.add_module(self._attributes[name], module)

    def origin_of(self, path: str) -> tuple[str, str] | None:
        """Return the first task and operation that call the module to which a path among the modules leads."""
        attribute = path.partition(".")[0]
        for node in self._plan.schedule(self.tasks):
            if self._attributes[self._plan.nodes[node].module_name] == attribute:
                return self._plan.origins[node]
        return None

    def readers_of(self, field: str) -> list[nn.Module]:
        """Return the modules that read a field."""
        nodes = (self._plan.nodes[node] for node in self._plan.schedule(self.tasks))
        names = [node.module_name for node in nodes if FieldInput(field) in node.sources]
        return [self.get_submodule(self._attributes[name]) for name in dict.fromkeys(names)]

    @property
    def output_names(self) -> list[str]:
        """What the answers are called, in their order."""
        return [f"{name}.{output.called(kind)}" for name, output in self._outputs.items() for kind in KINDS]

    def forward(self, fields: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Answer a batch.

        Args:
            fields: Fields by name, ``[n, …]``.

        Returns:
            For each task ``{task}.logits``, ``{task}.probs`` (``{task}.outputs`` where the task has no classes) and
            ``{task}.preds``, as :meth:`~mtl_core.MultitaskClassifier.infer` answers them: ``[n, …]``.

        Raises:
            OperationError: If an operation fails on its inputs.
            ExportError: If a task's last operation answers anything but one tensor, or its output function fails on it.
        """
        computed = self._plan.run(fields, self.tasks, self._call)
        answers: dict[str, torch.Tensor] = {}
        # A graph's answers have names of their own only where each is a tensor of its own.
        seen = {id(values) for values in fields.values()}
        for name, output in self._outputs.items():
            found = self._answered(name, output, computed[self._plan.output_node(name)])
            for kind, values in found.items():
                answers[f"{name}.{output.called(kind)}"] = values.clone() if id(values) in seen else values
                seen.add(id(values))
        return answers

    def _answered(self, task: str, output: Output, logits: Any) -> dict[str, torch.Tensor]:
        if not isinstance(logits, torch.Tensor):
            raise ExportError(
                f"its last operation answers a {type(logits).__name__}, and not one tensor", task
            )
        try:
            return answer_in_place(output, logits, KINDS)
        except MODULE_FAILURES as error:
            raise ExportError(f"its output function failed: {error}", task) from error

    def _call(self, module_name: str, inputs: list[Any]) -> Any:
        return self.get_submodule(self._attributes[module_name])(*inputs)


def _plain(modules: nn.ModuleList) -> nn.ModuleList:
    """Put in the place of a layer that draws at random in training what it is in evaluation mode."""
    for parent in list(modules.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.RReLU:
                parent.add_module(name, nn.LeakyReLU((child.lower + child.upper) / 2))
    return modules
