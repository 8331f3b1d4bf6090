"""The tasks of a model: registered ones, or its own, which its architecture makes of outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from app.db.tables import Model, ModelTask, Task
from app.tasks import service as tasks_service
from mtl_core.architectures import Architecture, TaskOutline, expand
from mtl_core.building.tasks import (
    Limits,
    TaskReport,
    canonical_task,
    check_budget,
    check_shared_modules,
    check_task,
    shared_fields,
)
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.specs import TaskSpec

ARCHITECTURE: TypeAdapter[Architecture] = TypeAdapter(Architecture)
"""Reads what a model's row keeps of its architecture."""

_REPORT = TypeAdapter(TaskReport)
# Where a written-out task says what its architecture makes of it; all else stands in its outline, too.
_OF_ARCHITECTURE = ("/module_pool", "/op_sequence", "/inputs")


def architecture_of(model: Model) -> Architecture | None:
    """Return a model's architecture; None if its tasks are registered ones."""
    return ARCHITECTURE.validate_python(model.architecture) if model.architecture else None


def spec_of(task: ModelTask) -> TaskSpec:
    """Return the spec of a model's task, registered or the model's own."""
    if task.task_row is not None:
        return tasks_service.spec_of(task.task_row)
    return TaskSpec.model_validate(task.spec)


def report_of(task: ModelTask) -> TaskReport:
    """Return what checking the spec of a model's task found."""
    if task.task_row is not None:
        return tasks_service.report_of(task.task_row)
    return _REPORT.validate_python(task.report)


def outline_of(task: ModelTask) -> TaskOutline:
    """Return what the client said of a model's own task."""
    return TaskOutline.model_validate(task.outline)


def canonical(task: ModelTask) -> dict[str, Any]:
    """Return the spec of a model's task with every default written out, so that equal specs compare equal."""
    return canonical_task(spec_of(task))


def registered_tasks(tasks: Sequence[Task], first: int = 0) -> list[ModelTask]:
    """Return the places of registered tasks in a model, from position ``first`` on."""
    return [ModelTask(task=task.name, task_row=task, position=i) for i, task in enumerate(tasks, first)]


def written_out(
    architecture: Architecture, outlines: Sequence[TaskOutline], limits: Limits
) -> list[ModelTask]:
    """Return the tasks that an architecture makes of outlines, each checked from end to end, and all together.

    Raises:
        SpecError: With pointers into ``{"architecture": …, "tasks": […]}``.
    """
    specs = expand(architecture, outlines)
    reports: list[TaskReport] = []
    for i, spec in enumerate(specs):
        try:
            reports.append(check_task(spec, limits))
        except SpecError as error:
            raise _in_short_form(error, i, spec) from None
    try:
        check_together(specs, reports, limits)
    except SpecError as error:
        raise SpecError([Fault("/architecture", fault.detail) for fault in error.faults]) from None
    return [
        ModelTask(
            task=spec.name,
            position=i,
            outline=outline.model_dump(mode="json", exclude_unset=True),
            spec=spec.written_out(),
            report=asdict(report),
        )
        for i, (outline, spec, report) in enumerate(zip(outlines, specs, reports, strict=True))
    ]


def check_together(specs: Sequence[TaskSpec], reports: Sequence[TaskReport], limits: Limits) -> None:
    """Refuse tasks that cannot be one model.

    Args:
        specs: The tasks.
        reports: What checking each of them found.
        limits: What the model may ask for.

    Raises:
        ModuleConflictError: If two declare one module name differently.
        SpecError: If all together are too large, or two need one field in different forms.
    """
    check_shared_modules(specs)
    check_budget({name: n for report in reports for name, n in report.parameters.items()}, limits)
    shared_fields({spec.name: report for spec, report in zip(specs, reports, strict=True)})


def _in_short_form(error: SpecError, position: int, spec: TaskSpec) -> SpecError:
    """Point at what of the short form a fault of a written-out task comes from."""
    return SpecError(
        [
            Fault("/architecture", f"task '{spec.name}', {fault.pointer}: {fault.detail}")
            if fault.pointer.startswith(_OF_ARCHITECTURE)
            else Fault(pointer_to("tasks", position) + fault.pointer, fault.detail)
            for fault in error.faults
        ]
    )
