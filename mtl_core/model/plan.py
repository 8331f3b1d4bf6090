"""Operation sequences of many tasks → one execution plan in which equal operations are one node.

Two operations are equal when they call the same module on the same inputs, all the way down to the fields.
Their names play no part: names belong to tasks, and two tasks may use one name for different things.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtl_core.errors import MODULE_FAILURES, OperationError, TaskloomError
from mtl_core.model.cut import Cut
from mtl_core.task import INPUT, OpInput, Task


@dataclass(frozen=True)
class FieldInput:
    """A field of the batch, or the dict of all fields where ``name`` is None."""

    name: str | int | None


@dataclass(frozen=True)
class NodeInput:
    """The output of an earlier node, or one entry of it."""

    node: int
    key: str | int | None


@dataclass(frozen=True)
class EverythingInput:
    """A dict of all fields and of the outputs of a task's earlier operations, by their names there."""

    operations: tuple[tuple[str, int], ...]


Source = FieldInput | NodeInput | EverythingInput


@dataclass(frozen=True)
class Node:
    """One distinct computation: a module applied to sources."""

    module_name: str
    sources: tuple[Source, ...]

    def needs(self) -> list[int]:
        """Return the nodes that must have run before this one."""
        needed: list[int] = []
        for source in self.sources:
            if isinstance(source, NodeInput):
                needed.append(source.node)
            elif isinstance(source, EverythingInput):
                needed.extend(node for _, node in source.operations)
        return needed


@dataclass
class ExecutionPlan:
    """The distinct operations of all tasks, in an order in which every input comes before its use.

    Attributes:
        nodes: The distinct computations; a node's inputs have smaller indices.
        operations: For each task, its operations' names with the node of each, in the task's own order.
        origins: For each node, the first (task, operation) that declared it.
    """

    nodes: list[Node] = field(default_factory=list[Node])
    operations: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    origins: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _index: dict[Node, int] = field(default_factory=dict[Node, int])
    _needed: dict[str, set[int]] = field(default_factory=dict[str, set[int]])

    def add_task(self, task: Task) -> None:
        """Add a task's operations, each equal one meeting the node that is there already."""
        nodes_by_op: dict[str, int] = {}
        for op in task.op_sequence:
            if op.inputs:
                sources = tuple(_source(entry, nodes_by_op) for entry in op.inputs)
            else:
                sources = (EverythingInput(tuple(nodes_by_op.items())),)
            node = Node(op.module_name, sources)
            if node not in self._index:
                self._index[node] = len(self.nodes)
                self.nodes.append(node)
                self.origins.append((task.name, op.name))
            nodes_by_op[op.name] = self._index[node]
        self.operations[task.name] = nodes_by_op
        self._needed[task.name] = self._upstream(self.output_node(task.name))

    def output_node(self, task_name: str) -> int:
        """Return the node whose output is the task's."""
        return next(reversed(self.operations[task_name].values()))

    def schedule(
        self, task_names: Iterable[str], without: Collection[int] = (), also: Iterable[int] = ()
    ) -> list[int]:
        """Return the nodes that the tasks' outputs need, each once, in order.

        An operation that no output depends on is left out.

        Args:
            task_names: The tasks.
            without: Nodes that are not wanted; default: none.
            also: Further nodes that are wanted, with what they need; default: none.
        """
        needed = set[int]().union(*(self._needed[name] for name in task_names), *map(self._upstream, also))
        return sorted(needed.difference(without))

    def _upstream(self, output: int) -> set[int]:
        """Return a node and all that it depends on."""
        needed: set[int] = set()
        frontier = [output]
        while frontier:
            node = frontier.pop()
            if node not in needed:
                needed.add(node)
                frontier.extend(self.nodes[node].needs())
        return needed

    def run(
        self,
        X_dict: Mapping[str, Any],
        task_names: Iterable[str],
        call: Callable[[str, list[Any]], Any],
        cut: Cut | None = None,
        without: Collection[int] = (),
    ) -> dict[int, Any]:
        """Run what the tasks need, each distinct operation once.

        Args:
            X_dict: The batch's fields by name.
            task_names: Whose outputs are wanted.
            call: ``(module name, inputs) → output``.
            cut: Takes in what operations of several of the tasks hand on to those of one alone; default: none is cut.
            without: Nodes to leave out, which no other node reads; default: none.

        Returns:
            Output by node.

        Raises:
            OperationError: If an operation fails, naming it, its task and its module.
        """
        names = list(task_names)
        nodes = self.schedule(names, without)
        if cut is None:
            return self.execute(nodes, X_dict, call)
        shared = self._shared(names)
        ends = self._ends(names, shared)
        uncut: dict[int, Any] = {}
        outputs: dict[int, Any] = {}
        for index in nodes:
            uncut[index] = outputs[index] = self._call(
                index, X_dict, uncut if index in shared else outputs, call
            )
            if index in ends:
                outputs[index] = cut.through(uncut[index])
        return outputs

    def execute(
        self, nodes: Iterable[int], X_dict: Mapping[str, Any], call: Callable[[str, list[Any]], Any]
    ) -> dict[int, Any]:
        """Run nodes, each after those that it reads; see :meth:`run`."""
        outputs: dict[int, Any] = {}
        for index in nodes:
            outputs[index] = self._call(index, X_dict, outputs, call)
        return outputs

    def _call(
        self,
        index: int,
        X_dict: Mapping[str, Any],
        outputs: Mapping[int, Any],
        call: Callable[[str, list[Any]], Any],
    ) -> Any:
        node = self.nodes[index]
        try:
            return call(node.module_name, [value_of(source, X_dict, outputs) for source in node.sources])
        except MODULE_FAILURES as error:
            task_name, op_name = self.origins[index]
            kind = "" if isinstance(error, TaskloomError) else f"{type(error).__name__}: "
            raise OperationError(task_name, op_name, node.module_name, f"{kind}{error}") from error

    def _shared(self, task_names: Sequence[str]) -> set[int]:
        """Return the nodes that two of the tasks or more need."""
        uses = Counter(node for name in task_names for node in self._needed[name])
        return {node for node, n in uses.items() if n > 1}

    def _ends(self, task_names: Sequence[str], shared: set[int]) -> set[int]:
        """Return those of the shared nodes that a node of one task reads, or that a task ends in."""
        if not shared:
            return set()
        own = (node for node in self.schedule(task_names) if node not in shared)
        read = {needed for node in own for needed in self.nodes[node].needs()}
        return shared & (read | {self.output_node(name) for name in task_names})


def _source(entry: OpInput, nodes_by_op: Mapping[str, int]) -> Source:
    source, key = (entry, None) if isinstance(entry, str) else entry
    return FieldInput(key) if source == INPUT else NodeInput(nodes_by_op[source], key)


def value_of(source: Source, X_dict: Mapping[str, Any], outputs: Mapping[int, Any]) -> Any:
    """Return what a source stands for.

    Args:
        source: A field, or an earlier node's output.
        X_dict: The batch's fields by name.
        outputs: Output by node.

    Raises:
        TaskloomError: If the batch lacks the field.
        TypeError: If an entry is wanted of one tensor.
    """
    match source:
        case FieldInput(None):
            return dict(X_dict)
        case FieldInput(name):
            if name not in X_dict:
                raise TaskloomError(f"the batch has no field '{name}'; it has {sorted(X_dict)}")
            return X_dict[str(name)]
        case NodeInput(node, None):
            return outputs[node]
        case NodeInput(node, key):
            if isinstance(outputs[node], torch.Tensor):
                # Its first dimension is the batch: an index would pick one example for all.
                raise TypeError(f"entry {key!r} is wanted of one tensor: only tuples and dicts have entries")
            return outputs[node][key]
        case EverythingInput(operations):
            return {INPUT: dict(X_dict)} | {name: outputs[node] for name, node in operations}
