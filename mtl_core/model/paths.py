"""The paths of several tasks through a model, worked out once and then run batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from mtl_core.errors import MODULE_FAILURES, TaskloomError
from mtl_core.model.devices import call, gpus_beside, to_device
from mtl_core.model.inference import KINDS, answer, fields_on, forward_of, is_close, tensors_in
from mtl_core.model.network import TaskNetwork
from mtl_core.model.plan import FieldInput, NodeInput
from mtl_core.model.reading import PathTraits
from mtl_core.outputs import Softmax

OPERATIONS = "operations"
"""Under which key of a task's answer the outputs of operations are."""

_CPU = torch.device("cpu")


class TaskPaths:
    """Answers several tasks along their paths, operations that they share once, while the model stays as it is.

    The answers are those of :meth:`~mtl_core.MultitaskClassifier.infer`, to the last bit. The model must be in
    evaluation mode; what its parameters hold may change, but not which parameters and modules they are.

    Args:
        network: The model.
        task_names: The tasks.
        kinds: Which of ``"logits"``, ``"probs"`` and ``"preds"`` to answer; default: all three.
        operations: Names of operations whose outputs are wanted too, of every task that has one of that name; default:
            none.

    Attributes:
        writes: Whether a module may write to the fields that it is given.

    Raises:
        TaskloomError: If the model lacks a task, or none of the tasks has an operation of a name.

    Example:
        >>> from torch import nn
        >>> from mtl_core import MultitaskClassifier, Operation, Task
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> paths = TaskPaths(MultitaskClassifier([task], device=-1).eval(), ["t"], ["preds"], ["head"])
        >>> answers = paths({"x": torch.zeros(3, 4)})["t"]
        >>> tuple(answers["preds"].shape), tuple(answers["operations"]["head"].shape)
        ((3,), (3, 2))
    """

    def __init__(
        self,
        network: TaskNetwork,
        task_names: Iterable[str],
        kinds: Collection[str] = KINDS,
        operations: Sequence[str] = (),
    ) -> None:
        names = list(dict.fromkeys(task_names))
        modules = {module for name in names for module in network.modules_of(name)}
        self._kinds, self._plan = tuple(kinds), network.plan
        self._wanted = [
            (
                name,
                network.tasks[name].output_func,
                self._plan.output_node(name),
                {op: node for op, node in self._plan.operations[name].items() if op in operations},
            )
            for name in names
        ]
        found = {op: node for *_, wanted in self._wanted for op, node in wanted.items()}
        for op in operations:
            if op not in found:
                known = sorted({known for name in names for known in self._plan.operations[name]})
                raise TaskloomError(f"there is no operation '{op}'; there are {known}")
        self._nodes = self._plan.schedule(names, also=found.values())
        modules.update(self._plan.nodes[node].module_name for node in self._nodes)
        self._device = network.device
        self._gpus = gpus_beside(self._device) if network.config.dataparallel else []
        self._modules = {name: network.module_pool[name] for name in modules}
        self._forwards = {name: forward_of(module) for name, module in self._modules.items()}
        self._steps = None if len(self._gpus) > 1 else self._calls()
        traits = PathTraits.of(network, names)
        self._alike = [
            (name, node)
            for name, output, node, operations in self._wanted
            if type(output) is Softmax and not operations
        ]
        self._is_row_by_row, self.writes = traits.row_by_row and not operations, traits.writes

    def __call__(self, X_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Answer a batch.

        Args:
            X_dict: Fields by name, ``[n, …]``; examples' weights among them are left out.

        Returns:
            For each task, by kind: tensors ``[n, …]`` on the CPU, in float32 where the model computed in half
            precision; under ``"operations"``, where any are wanted, what they put out, by name.

        Raises:
            OperationError: If an operation fails on its inputs.
        """
        found: dict[str, dict[str, Any]] = {}
        for names, answers in self.in_groups(X_dict):
            if len(names) == 1:
                found[names[0]] = answers
            else:
                each = {kind: values.unbind() for kind, values in answers.items()}
                found |= {name: {kind: each[kind][i] for kind in each} for i, name in enumerate(names)}
        return {name: found[name] for name, *_ in self._wanted}

    def in_groups(self, X_dict: Mapping[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
        """Answer a batch as :meth:`__call__` does, tasks of one form in one tensor.

        Returns:
            Groups of tasks, and by kind: of one task as there; of several, tensors ``[tasks, n, …]``.

        Raises:
            OperationError: If an operation fails on its inputs.
        """
        with torch.inference_mode():
            fields = fields_on(self._device, X_dict)
            computed = self._run(fields)
            groups: list[tuple[tuple[str, ...], dict[str, Any]]] = []
            together = self._together([computed[node] for _, node in self._alike])
            if together is not None:
                # Each row's classes are computed by themselves, so in one tensor they are what they are alone.
                probs = torch.softmax(together, dim=2)
                every = {"logits": together, "probs": probs}
                if "preds" in self._kinds:
                    every["preds"] = probs.argmax(dim=2)
                names = tuple(name for name, _ in self._alike)
                groups.append((names, {kind: every[kind] for kind in self._kinds}))
            for name, output, node, operations in self._wanted:
                if together is not None and (name, node) in self._alike:
                    continue
                answers = answer(output, computed[node], self._kinds)
                if operations:
                    outputs = {op: to_device(computed[at], _CPU) for op, at in operations.items()}
                    answers[OPERATIONS] = outputs
                groups.append(((name,), answers))
            return groups

    def _together(self, logits: list[Any]) -> torch.Tensor | None:
        """Return the logits of the tasks that have a softmax as one tensor; None if they are not of one plain form."""
        if len(logits) < 2:
            return None
        first = logits[0]
        if not all(
            isinstance(each, torch.Tensor)
            and each.ndim == 2
            and each.shape == first.shape
            and each.dtype == torch.float32
            and each.is_cpu
            for each in logits
        ):
            return None
        return torch.stack(logits)

    def keeps_rows_apart(self, X_dict: Mapping[str, torch.Tensor]) -> bool:
        """Say whether each row is answered by itself, so that batches may be joined and answers told apart again.

        Paths of layers that are known to look at one row at a time are not tried; others are, with a batch.

        Args:
            X_dict: Fields by name, ``[n, …]`` of at least two rows that differ.
        """
        if self._is_row_by_row:
            return True
        n = len(next(iter(X_dict.values())))
        rows = [{name: values[i : i + 1].clone() for name, values in X_dict.items()} for i in range(n)]
        whole = {name: values.clone() for name, values in X_dict.items()}
        try:
            parts, together = [tensors_in(self(row)) for row in rows], tensors_in(self(whole))
        except (*MODULE_FAILURES, TaskloomError):
            return False
        return all(
            all(part.shape[:1] == (1,) for part in of_rows) and is_close(torch.cat(of_rows), all_at_once)
            for all_at_once, *of_rows in zip(together, *parts, strict=True)
        )

    def _calls(self) -> list[tuple[int, Callable[..., Any], tuple[str | int, ...]]] | None:
        """Return the calls in order, each with its node, and the field or earlier node that each argument is.

        None where an argument is something else, such as one entry of what a node put out.
        """
        calls: list[tuple[int, Callable[..., Any], tuple[str | int, ...]]] = []
        for index in self._nodes:
            node = self._plan.nodes[index]
            keys: list[str | int] = []
            for source in node.sources:
                match source:
                    case FieldInput(str() as name):
                        keys.append(name)
                    case NodeInput(earlier, None):
                        keys.append(earlier)
                    case _:
                        return None
            calls.append((index, self._forwards[node.module_name], tuple(keys)))
        return calls

    def _run(self, fields: Mapping[str, Any]) -> Mapping[Any, Any]:
        """Return what each node puts out."""
        if self._steps is not None:
            values: dict[str | int, Any] = {**fields}
            try:
                for node, forward, keys in self._steps:
                    values[node] = forward(*[values[key] for key in keys])
            except MODULE_FAILURES:
                # Called one by one below, whichever it is says what is wrong.
                pass
            else:
                return values
        return self._plan.execute(self._nodes, fields, self._call)

    def _call(self, module_name: str, inputs: list[Any]) -> Any:
        if len(self._gpus) > 1:
            return call(self._modules[module_name], inputs, self._gpus)
        return self._forwards[module_name](*inputs)
