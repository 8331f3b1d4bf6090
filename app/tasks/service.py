"""The rules for tasks: checked from end to end when registered, immutable after, kept while a model uses them."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import ModelTask, Task
from app.problems import Conflict, missing
from mtl_core.building.tasks import Limits, TaskReport, canonical_task, check_task
from mtl_core.specs import TaskSpec

_REPORT = TypeAdapter(TaskReport)


def register(session: Session, spec: TaskSpec, limits: Limits) -> tuple[Task, bool]:
    """Check a task and store it.

    Returns:
        The task, and whether it is new: the same spec again finds the first.

    Raises:
        SpecError: If the spec cannot become a task.
        Conflict: If the name stands for another spec.
    """
    report = check_task(spec, limits)
    existing = session.get(Task, spec.name)
    if existing is not None:
        if canonical_task(spec_of(existing)) != canonical_task(spec):
            raise Conflict(f"task '{spec.name}' exists with another spec")
        return existing, False
    task = Task(name=spec.name, spec=spec.written_out(), report=asdict(report))
    session.add(task)
    session.flush()
    return task, True


def get(session: Session, name: str) -> Task:
    """Return a task.

    Raises:
        NotFound: If there is none of that name.
    """
    task = session.get(Task, name)
    if task is None:
        raise missing("task", name)
    return task


def remove(session: Session, task: Task) -> None:
    """Remove a task.

    Raises:
        Conflict: If a model uses it.
    """
    users = session.scalars(select(ModelTask.model).where(ModelTask.registered == task.name).limit(5)).all()
    if users:
        raise Conflict(f"task '{task.name}' is in use by model {', '.join(map(repr, users))}")
    session.delete(task)


def warm_up() -> None:
    """Check a small task, so that what such a check loads is there for the first real one."""
    head = {"type": "Linear", "in_features": 1, "out_features": 2}
    operation = {"module_name": "head", "inputs": [["_input_", "x"]]}
    check_task(
        TaskSpec.model_validate(
            {"name": "warm-up", "module_pool": {"head": head}, "op_sequence": [operation]}
        ),
        Limits(),
    )


def spec_of(task: Task) -> TaskSpec:
    """Return the spec that a task was registered with, defaults filled in."""
    return TaskSpec.model_validate(task.spec)


def report_of(task: Task) -> TaskReport:
    """Return what checking the task's spec found."""
    return _REPORT.validate_python(task.report)
