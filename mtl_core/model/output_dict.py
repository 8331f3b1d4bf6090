"""What a forward pass computed, by operation name, as long as a name means one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtl_core.errors import TaskloomError
from mtl_core.task import INPUT

OutputKey = str | tuple[str, str]
"""An operation's name, or ``(task, operation)``."""


class AmbiguousOutputError(TaskloomError):
    """A bare operation name stands for different computations in the tasks that were asked for."""

    def __init__(self, op_name: str, task_names: list[str]) -> None:
        super().__init__(
            f"operation '{op_name}' computes different things in the tasks {task_names}:"
            f' ask for one of them, as in outputs["{task_names[0]}", "{op_name}"]'
        )
        self.op_name = op_name
        self.task_names = task_names


class OutputDict(Mapping[OutputKey, Any]):
    """Outputs of a forward pass: ``outputs["head"]``, ``outputs["task", "head"]`` and ``outputs["_input_"]``.

    A bare name will do wherever it stands for one computation in all tasks that have it. Where it does not, only the
    pair will, and iterating gives the pairs in its place.

    Args:
        fields: The batch's fields, answered under ``"_input_"``.
        outputs: Output by computation.
        operations: For each task, the computation behind each of its operations' names.

    Raises:
        AmbiguousOutputError: If a bare name stands for several computations.
        KeyError: If nothing of that name was computed.

    Example:
        >>> outputs = OutputDict({}, {0: "left", 1: "right", 2: "both"}, {"a": {"x": 0, "y": 2}, "b": {"x": 1, "y": 2}})
        >>> outputs["y"], outputs["a", "x"], list(outputs)
        ('both', 'left', ['_input_', ('a', 'x'), 'y', ('b', 'x')])
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        outputs: Mapping[int, Any],
        operations: Mapping[str, Mapping[str, int]],
    ) -> None:
        self._fields = fields
        self._outputs = outputs
        self._operations = operations
        self._meanings: dict[str, set[int]] = {}
        for nodes_by_op in operations.values():
            for op_name, node in nodes_by_op.items():
                self._meanings.setdefault(op_name, set()).add(node)

    def __getitem__(self, key: OutputKey) -> Any:
        if key == INPUT:
            return self._fields
        if isinstance(key, tuple):
            task_name, op_name = key
            return self._outputs[self._operations[task_name][op_name]]
        meanings = self._meanings[key]
        if len(meanings) > 1:
            raise AmbiguousOutputError(key, [name for name, ops in self._operations.items() if key in ops])
        return self._outputs[next(iter(meanings))]

    def __contains__(self, key: object) -> bool:
        match key:
            case (str() as task_name, str() as op_name):
                return op_name in self._operations.get(task_name, {})
            case str():
                return key == INPUT or len(self._meanings.get(key, ())) == 1
            case _:
                return False

    def __iter__(self) -> Iterator[OutputKey]:
        yield INPUT
        for task_name, op_names in self._operations.items():
            for op_name in op_names:
                if len(self._meanings[op_name]) > 1:
                    yield task_name, op_name
                elif self._first_task_with(op_name) == task_name:
                    yield op_name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _first_task_with(self, op_name: str) -> str:
        return next(name for name, ops in self._operations.items() if op_name in ops)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"
