"""Tasks that share modules by name: what a model is made of, and how that is changed without touching the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar, cast

import torch
from torch import nn

from mtl_core.errors import ModuleConflictError, TaskloomError
from mtl_core.model.architecture import difference
from mtl_core.model.devices import ClassifierConfig
from mtl_core.model.module_pool import ModulePool
from mtl_core.model.plan import ExecutionPlan
from mtl_core.outputs import Output
from mtl_core.scoring.scorer import Scorer
from mtl_core.task import LossFunction, Operation, Task

T = TypeVar("T")


class TaskNetwork(nn.Module):
    """The modules of many tasks, the tasks, and one plan of what they compute.

    Every change leaves whatever it does not name as it was, to the last bit: weights, buffers and predictions.

    Args:
        name: The model's name; default: that of its class.
        config: Where its modules are put.

    Attributes:
        module_pool: The modules by name.
        tasks: The tasks by name, with their modules as the model has them.
        plan: The distinct operations of all tasks.
        remap_labels: Along which task's path a label set is scored, None for not at all; default: each along the task
            of its own name.
    """

    def __init__(self, name: str | None, config: ClassifierConfig) -> None:
        super().__init__()
        self.name = name or type(self).__name__
        self.config = config
        self.module_pool = ModulePool()
        self.tasks: dict[str, Task] = {}
        self.plan = ExecutionPlan()
        self.remap_labels: dict[str, str | None] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is now; without any tensor, where its configuration puts it."""
        tensors = (tensor for of_model in (self.parameters(), self.buffers()) for tensor in of_model)
        first = next(tensors, None)
        return self.config.resolved() if first is None else first.device

    @property
    def task_names(self) -> list[str]:
        """The tasks' names, in the order they were added."""
        return list(self.tasks)

    @property
    def op_sequences(self) -> Mapping[str, list[Operation]]:
        """Each task's operations, to be read."""
        return self._of_tasks(lambda task: task.op_sequence)

    @property
    def loss_funcs(self) -> Mapping[str, LossFunction]:
        """Each task's loss function, to be read."""
        return self._of_tasks(lambda task: task.loss_func)

    @property
    def output_funcs(self) -> Mapping[str, Output]:
        """Each task's output function, to be read."""
        return self._of_tasks(lambda task: task.output_func)

    @property
    def scorers(self) -> Mapping[str, Scorer]:
        """Each task's scorer, to be read."""
        return self._of_tasks(lambda task: task.scorer)

    def modules_of(self, task_name: str) -> list[str]:
        """Return the names of the modules on a task's path: those that its output depends on."""
        self._check_tasks([task_name])
        return list(
            dict.fromkeys(self.plan.nodes[node].module_name for node in self.plan.schedule([task_name]))
        )

    def own_modules(self, task_name: str) -> list[str]:
        """Return the names of the modules on a task's path that share no weight with any other task's path."""
        self._check_tasks([task_name])
        return self.modules_apart([task_name], [other for other in self.tasks if other != task_name])

    def modules_apart(self, task_names: Iterable[str], others: Iterable[str]) -> list[str]:
        """Return the names of the modules on some tasks' paths that share no weight with the paths of others."""
        in_use = {name for other in others for name in self.modules_of(other)}
        # One tensor may stand under several names.
        shared = {id(parameter) for name in in_use for parameter in self.module_pool[name].parameters()}
        return [
            name
            for name in dict.fromkeys(name for task in task_names for name in self.modules_of(task))
            if name not in in_use and not shared & {id(p) for p in self.module_pool[name].parameters()}
        ]

    def add_task(self, task: Task) -> None:
        """Add a task; modules that the model has already keep their weights.

        Raises:
            TaskloomError: If it is no task, the model has a task of that name, or an operation names a module or an
                earlier operation that the task lacks.
            ModuleConflictError: If a module name is declared with another architecture; the model stays as it
                was.
        """
        if not isinstance(cast("object", task), Task):
            raise TaskloomError(f"unrecognized task {task!r}: a model is made of Task objects")
        if task.name in self.tasks:
            raise TaskloomError(f"found duplicate task '{task.name}': different tasks need different names")
        task.check()
        for name, module in task.module_pool.items():
            if name in self.module_pool and (what := difference(self.module_pool[name], module)):
                first = next(other.name for other in self.tasks.values() if name in other.module_pool)
                raise ModuleConflictError(name, first, task.name, what)
        device = self.device
        for name, module in task.module_pool.items():
            if name not in self.module_pool:
                self.module_pool[name] = self._settled(module, device)
        # A copy: the caller's task may be part of another model.
        self.tasks[task.name] = copy.copy(task)
        self._adopt(self.tasks[task.name])

    def remove_task(self, task_name: str) -> list[str]:
        """Take a task off, with the modules that no other task declares.

        Returns:
            The names of the modules that went with it.

        Raises:
            TaskloomError: If the model has no such task.
        """
        self._check_tasks([task_name])
        removed = self.tasks.pop(task_name)
        declared = {name for task in self.tasks.values() for name in task.module_pool}
        names = [name for name in removed.module_pool if name not in declared]
        for name in names:
            del self.module_pool[name]
        for label in [label for label, target in self.remap_labels.items() if target == task_name]:
            del self.remap_labels[label]
        self._rebuild()
        return names

    def replace_module(self, name: str, module: nn.Module) -> None:
        """Put another module in the place of one, of any architecture, for every task that uses it.

        Raises:
            TaskloomError: If the model has no module of that name.
        """
        self._check_module(name)
        self.module_pool[name] = self._settled(module, self.device)
        self._rebuild()

    def rename_task(self, old: str, new: str) -> None:
        """Call a task by another name, under which its labels are looked for from now on.

        Raises:
            TaskloomError: If the model has no task ``old``, or another one is called ``new``.
        """
        self._check_tasks([old])
        if new in self.tasks and new != old:
            raise TaskloomError(f"task '{old}' cannot be renamed: model '{self.name}' has a task '{new}'")
        self.tasks[old].name = new
        self.tasks = {task.name: task for task in self.tasks.values()}
        self.remap_labels = {
            label: new if target == old else target for label, target in self.remap_labels.items()
        }
        self._rebuild()

    def rename_module(self, old: str, new: str) -> None:
        """Call a module by another name; the operations that call it keep theirs.

        Raises:
            TaskloomError: If the model has no module ``old``, or another one is called ``new``.
        """
        self._check_module(old)
        if new in self.module_pool and new != old:
            raise TaskloomError(f"module '{old}' cannot be renamed: model '{self.name}' has a module '{new}'")
        self.module_pool.rename(old, new)
        for task in self.tasks.values():
            if old in task.module_pool:
                names = [new if name == old else name for name in task.module_pool]
                task.module_pool = {name: self.module_pool[name] for name in names}
                task.op_sequence = [
                    _calling(op, new) if op.module_name == old else op for op in task.op_sequence
                ]
        self._rebuild()

    def _rebuild(self) -> None:
        self.plan = ExecutionPlan()
        for task in self.tasks.values():
            self._adopt(task)

    def _adopt(self, task: Task) -> None:
        """Give a task the modules that the model has, and plan what it computes."""
        task.module_pool = {name: self.module_pool[name] for name in task.module_pool}
        task.op_sequence = list(task.op_sequence)
        self.plan.add_task(task)

    def _settled(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Return a new module where the rest of the model is; in evaluation mode, if the model is."""
        return module.to(device) if self.training else module.to(device).eval()

    def _of_tasks(self, attribute: Callable[[Task], T]) -> Mapping[str, T]:
        return MappingProxyType({name: attribute(task) for name, task in self.tasks.items()})

    def _check_tasks(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.tasks:
                raise TaskloomError(f"model '{self.name}' has no task '{name}'; it has {self.task_names}")

    def _check_module(self, name: str) -> None:
        if name not in self.module_pool:
            raise TaskloomError(
                f"model '{self.name}' has no module '{name}'; it has {sorted(self.module_pool)}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, tasks={self.task_names})"


def _calling(op: Operation, module_name: str) -> Operation:
    changed = copy.copy(op)
    changed.module_name = module_name
    return changed
