"""From the short form to task specs, each written out in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from mtl_core.architectures.coupled import AITM, ESMM, CrossStitch
from mtl_core.architectures.experts import CGC, PLE, DSelectK, MMoE
from mtl_core.architectures.outline import TaskOutline
from mtl_core.architectures.path import Path
from mtl_core.architectures.trunks import Adapters, AttentionPooling, FiLM, SharedBottom, SingleTask
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.kinds import KINDS
from mtl_core.modules import count_layers
from mtl_core.specs import TaskSpec

Architecture = Annotated[
    SharedBottom
    | SingleTask
    | MMoE
    | DSelectK
    | CGC
    | PLE
    | CrossStitch
    | FiLM
    | Adapters
    | ESMM
    | AITM
    | AttentionPooling,
    Field(discriminator="type"),
]
"""The short form of a network, told apart by ``type``."""

MAX_OPERATIONS, MAX_INPUTS = 256, 64
"""What :class:`~mtl_core.specs.TaskSpec` lets a task have: operations, and inputs of one operation."""

MAX_LAYERS = 100_000
"""Layers of all tasks' paths together, shared ones counted for each task: as many are checked, one task at a time."""


def expand(architecture: Architecture, outlines: Sequence[TaskOutline]) -> list[TaskSpec]:
    """Write out an architecture and its tasks as one spec for each task.

    Modules are named by what they are and, where a task has them for itself, by the task: ``experts``,
    ``gate_income``. A module's name and spec do not depend on the other tasks, but for those that mix what all tasks
    have: a ``stitch`` and the shared ``gate`` of a level. So a model that gains or loses a task keeps the others'
    weights.

    Args:
        architecture: The network, its sizes filled in; the sizes of the input come with the data.
        outlines: The tasks in order.

    Returns:
        The tasks' specs in the same order, to be checked by :func:`~mtl_core.building.tasks.check_task` and, once
        the fields are known, resolved by :func:`~mtl_core.building.tasks.resolve_task`.

    Raises:
        SpecError: With pointers into ``{"architecture": …, "tasks": […]}``: if two tasks have one name, a task's
            kind or ``labels`` is wrong or not for this architecture, or there are too many tasks for it.

    Example:
        >>> from mtl_core.architectures.experts import MMoE
        >>> outline = TaskOutline(name="income", kind="binary")
        >>> spec, = expand(MMoE(type="mmoe", inputs=["x"], experts=8), [outline])
        >>> list(spec.module_pool)
        ['experts', 'gate_income', 'head_income']
    """
    if faults := list(_outline_faults(architecture, outlines)):
        raise SpecError(faults)
    # The last task's path is as long as any, but for the heads.
    longest = _lay_out(architecture, outlines[-1], outlines)
    if too_many := _what_is_too_many(longest, len(outlines)):
        detail = f"{len(outlines)} tasks are too many for '{architecture.type}': {too_many}"
        raise SpecError.at("/tasks", f"{detail}; take fewer tasks or layers, or another architecture")
    return [_spec(_lay_out(architecture, outline, outlines), i) for i, outline in enumerate(outlines)]


def _outline_faults(architecture: Architecture, outlines: Sequence[TaskOutline]) -> Iterator[Fault]:
    if not outlines:
        yield Fault("/tasks", "a model has at least one task")
    seen: set[str] = set()
    for i, outline in enumerate(outlines):
        at = pointer_to("tasks", i)
        if outline.name in seen:
            yield Fault(f"{at}/name", f"task '{outline.name}' is named twice")
        seen.add(outline.name)
        try:
            outline.n_outputs(at)
            kind = KINDS.arguments(outline.kind)[0]
        except SpecError as error:
            yield from error.faults
            continue
        if architecture.only_kind not in (None, kind):
            yield Fault(
                f"{at}/kind", f"'{architecture.type}' is for tasks of kind '{architecture.only_kind}' only"
            )


def _lay_out(architecture: Architecture, task: TaskOutline, tasks: Sequence[TaskOutline]) -> Path:
    path = Path(task, tasks, architecture.style)
    architecture.lay_out(path)
    return path


def _what_is_too_many(path: Path, n_tasks: int) -> str | None:
    """Say what of a model whose tasks have such paths is beyond bounds; None where nothing is."""
    n_operations = len(path.operations)
    if n_operations > MAX_OPERATIONS:
        return f"a path through them has {n_operations:,} operations, at most {MAX_OPERATIONS} are accepted"
    n_inputs = max(len(operation["inputs"]) for operation in path.operations)
    if n_inputs > MAX_INPUTS:
        return f"an operation has {n_inputs} inputs, at most {MAX_INPUTS} are accepted"
    n_layers = n_tasks * sum(count_layers(module, MAX_LAYERS) for module in path.modules.values())
    if n_layers > MAX_LAYERS:
        return f"their paths have {n_layers:,} layers one by one, at most {MAX_LAYERS:,} are accepted"
    return None


def _spec(path: Path, position: int) -> TaskSpec:
    spec: dict[str, Any] = {
        "name": path.task.name,
        "module_pool": path.modules,
        "op_sequence": path.operations,
        "kind": path.task.kind,
    }
    try:
        return TaskSpec.model_validate(spec | path.task.overrides())
    except ValidationError as error:
        faults = [
            Fault(pointer_to("tasks", position, *entry["loc"]), entry["msg"]) for entry in error.errors()
        ]
        raise SpecError(faults) from None
