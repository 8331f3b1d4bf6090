"""A task and named slices → indicator and predictor tasks, and the task itself on top of what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.scoring.scorer import Scorer
from mtl_core.slicing.combiner import SliceCombinerModule
from mtl_core.slicing.names import (
    BASE,
    IND_HEAD,
    PRED_HEAD,
    PRED_TRANSFORM,
    ind_task,
    master_combiner,
    master_head,
    pred_task,
    whole_slice,
    with_base,
)
from mtl_core.task import Operation, Task

MakeLinear = Callable[[str, int, int], nn.Linear]
"""``(module name, inputs, outputs) → layer``."""


def convert_to_slice_tasks(base_task: Task, slice_names: Sequence[str]) -> list[Task]:
    """Split a task into an indicator and a predictor for each slice, and a master that combines them.

    All read what the base task's head reads. An indicator learns who is in its slice; a predictor learns the base
    task's labels from the slice's members, through a transform of its own and a head that all predictors share; the
    master is the base task with its head on the combined transforms. Loss, output function and scorer of the base task
    are those of predictors and master. The slice ``base``, to which every example belongs, is added where it is not
    named.

    Args:
        base_task: Ends in a ``Linear`` with at least two outputs; it stays as it is, and shares its modules with the
            tasks made of it.
        slice_names: The slices' names.

    Returns:
        The indicators ``{task}_slice:{slice}_ind``, then the predictors ``{task}_slice:{slice}_pred``, each in the
        order of the slices, then the master under the base task's name.

    Raises:
        TaskloomError: If the task's last operation does not call a Linear with at least two outputs, on one input and
            on no other; if a slice is named twice; or if the task uses a name that its slices would have.

    Source: Chen et al., "Slice-based Learning" (NeurIPS 2019), https://arxiv.org/abs/1909.06349.

    Example:
        >>> base = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> [task.name for task in convert_to_slice_tasks(base, ["a"])]
        ['t_slice:a_ind', 't_slice:base_ind', 't_slice:a_pred', 't_slice:base_pred', 't']
    """
    head = _head_of(base_task)

    def make(name: str, n_in: int, n_out: int) -> nn.Linear:
        return nn.Linear(n_in, n_out, device=head.weight.device, dtype=head.weight.dtype)

    return slice_tasks(base_task, slice_names, make)


def slice_tasks(base_task: Task, slice_names: Sequence[str], make: MakeLinear) -> list[Task]:
    """Do what :func:`convert_to_slice_tasks` does, with new layers as ``make`` makes them."""
    if len(set(slice_names)) < len(slice_names):
        raise TaskloomError(f"task '{base_task.name}': two slices have one name: {list(slice_names)}")
    head, head_op = _head_of(base_task), base_task.op_sequence[-1]
    body_ops = base_task.op_sequence[:-1]
    body = {op.module_name: base_task.module_pool[op.module_name] for op in body_ops}
    tasks: list[Task] = []
    slice_ops: list[Operation] = []
    slice_pool: dict[str, nn.Module] = {}

    def add(task: Task, modules: dict[str, nn.Module]) -> None:
        tasks.append(task)
        slice_pool.update(modules)
        slice_ops.extend(task.op_sequence[len(body_ops) :])

    names = with_base(slice_names)
    for name in names:
        op_name = whole_slice(base_task.name, name) + IND_HEAD
        modules: dict[str, nn.Module] = {op_name: make(op_name, head.in_features, 2)}
        ops = [*body_ops, Operation(op_name, head_op.inputs)]
        # Few examples are in most slices, and accuracy would praise whoever says "none".
        add(Task(ind_task(base_task.name, name), body | modules, ops, Scorer(metrics=["f1"])), modules)

    shared_head = make(whole_slice(base_task.name, BASE) + PRED_HEAD, head.in_features, head.out_features)
    for name in names:
        stem = whole_slice(base_task.name, name)
        transform, op_name = stem + PRED_TRANSFORM, stem + PRED_HEAD
        modules = {transform: make(transform, head.in_features, head.in_features), op_name: shared_head}
        ops = [*body_ops, Operation(transform, head_op.inputs), Operation(op_name, [transform])]
        add(_judged_alike(base_task, pred_task(base_task.name, name), body | modules, ops), modules)

    combiner, top = master_combiner(base_task.name), master_head(base_task.name)
    rest = {
        name: base_task.module_pool[name] for name in base_task.module_pool if name != head_op.module_name
    }
    master_pool = rest | slice_pool | {combiner: SliceCombinerModule(), top: head}
    ops = [*body_ops, *slice_ops, Operation(combiner, []), Operation(top, [combiner])]
    _check_names(base_task, [op.name for op in ops[len(body_ops) :]])
    return [*tasks, _judged_alike(base_task, base_task.name, master_pool, ops)]


def _judged_alike(base_task: Task, name: str, modules: dict[str, nn.Module], ops: list[Operation]) -> Task:
    return Task(name, modules, ops, base_task.scorer, base_task.loss_func, base_task.output_func)


def _head_of(task: Task) -> nn.Linear:
    op = task.op_sequence[-1]
    head = task.module_pool[op.module_name]
    if isinstance(head, nn.DataParallel):
        head = cast("nn.Module", head.module)
    if not isinstance(head, nn.Linear) or head.in_features < 1 or head.out_features < 2:
        raise TaskloomError(
            f"task '{task.name}' cannot be sliced: it must end in a Linear with at least two outputs, and its last"
            f" operation '{op.name}' calls {head!r}"
        )
    if len(op.inputs) != 1:
        raise TaskloomError(
            f"task '{task.name}' cannot be sliced: its last operation '{op.name}' must have one input,"
            f" not {len(op.inputs)}"
        )
    if op.module_name in (other.module_name for other in task.op_sequence[:-1]):
        raise TaskloomError(
            f"task '{task.name}' cannot be sliced: another operation uses its head '{op.module_name}' too"
        )
    return head


def _check_names(task: Task, names: Sequence[str]) -> None:
    used = {op.name for op in task.op_sequence} | task.module_pool.keys()
    if clash := sorted(used & set(names)):
        raise TaskloomError(
            f"task '{task.name}' has a '{clash[0]}', as its slices would: give it another name"
        )
