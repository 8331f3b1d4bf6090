"""The rules for models: tasks that agree on what they share; versions found by number or alias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Alias, Model, ModelTask, Run, Task, Version
from app.problems import Conflict, Invalid, missing
from app.tasks.service import report_of, spec_of
from mtl_core.building.tasks import Limits, check_budget, check_shared_modules, shared_fields
from mtl_core.errors import Fault, pointer_to
from mtl_core.specs import TaskSpec

LATEST, DEFAULT = "latest", "default"


def create(session: Session, name: str, tasks: Sequence[str], limits: Limits) -> tuple[Model, bool]:
    """Make a model of registered tasks.

    Returns:
        The model, and whether it is new: the same tasks again find the first.

    Raises:
        Invalid: If a task is unknown or named twice.
        ModuleConflictError: If two tasks declare one module name differently.
        Conflict: If the name stands for a model of other tasks.
    """
    rows = _registered(session, tasks)
    existing = session.get(Model, name)
    if existing is not None:
        if task_names(existing) != list(tasks):
            raise Conflict(f"model '{name}' exists with other tasks: {task_names(existing)}")
        return existing, False
    check_together(rows, limits)
    model = Model(
        name=name,
        tasks=[ModelTask(task=task.name, task_row=task, position=i) for i, task in enumerate(rows)],
        aliases=[],
    )
    session.add(model)
    session.flush()
    return model, True


def get(session: Session, name: str) -> Model:
    """Return a model.

    Raises:
        NotFound: If there is none of that name.
    """
    model = session.get(Model, name)
    if model is None:
        raise missing("model", name)
    return model


def put_task(session: Session, model: Model, task: str, limits: Limits) -> bool:
    """Put a task on a model; say whether it was not there before.

    Raises:
        Invalid: If the task is unknown.
        ModuleConflictError: If it declares a module name differently from a task of the model.
    """
    if task in task_names(model):
        return False
    row = session.get(Task, task)
    if row is None:
        raise Invalid.at("/task", f"there is no task '{task}'")
    check_together([*(link.task_row for link in model.tasks), row], limits)
    position = 1 + max(link.position for link in model.tasks)
    model.tasks.append(ModelTask(task=task, task_row=row, position=position))
    session.flush()
    return True


def take_task(model: Model, task: str) -> None:
    """Take a task off a model; versions keep it.

    Raises:
        NotFound: If the model does not have it.
        Conflict: If it is the model's only task.
    """
    link = next((link for link in model.tasks if link.task_row.name == task), None)
    if link is None:
        raise missing(f"task of model '{model.name}' named", task)
    if len(model.tasks) == 1:
        raise Conflict(f"task '{task}' is the only one of model '{model.name}': remove the model instead")
    model.tasks.remove(link)


def remove(session: Session, model: Model) -> None:
    """Remove a model with its runs, versions and scores.

    Raises:
        Conflict: If one of its runs is not over.
    """
    active = session.scalars(
        select(Run.id).where(Run.model == model.name, Run.finished_at.is_(None)).limit(1)
    ).first()
    if active:
        raise Conflict(f"run '{active}' of model '{model.name}' is not over: cancel it first")
    session.delete(model)


def task_names(model: Model) -> list[str]:
    """Return the names of a model's tasks in order."""
    return [link.task_row.name for link in model.tasks]


def specs_of(model: Model) -> list[TaskSpec]:
    """Return the specs of a model's tasks in order."""
    return [spec_of(link.task_row) for link in model.tasks]


def parameters_of(tasks: Iterable[Task]) -> dict[str, int]:
    """Return how many numbers each module of some tasks holds."""
    return {name: n for task in tasks for name, n in report_of(task).parameters.items()}


def check_together(tasks: Sequence[Task], limits: Limits) -> None:
    """Refuse tasks that cannot be one model.

    Raises:
        ModuleConflictError: If two declare one module name differently.
        SpecError: If all together are too large, or two need one field in different forms.
    """
    check_shared_modules(spec_of(task) for task in tasks)
    check_budget(parameters_of(tasks), limits)
    shared_fields({task.name: report_of(task) for task in tasks})


def versions_of(session: Session, model: Model) -> list[int]:
    """Return the numbers of a model's versions, oldest first."""
    return list(
        session.scalars(select(Version.number).where(Version.model == model.name).order_by(Version.number))
    )


def default_version(session: Session, model: Model) -> int | None:
    """Return the version that the alias ``default`` names, else the newest; None where there is none."""
    placed = session.get(Alias, (model.name, DEFAULT))
    return placed.version if placed else latest_version(session, model)


def latest_version(session: Session, model: Model) -> int | None:
    """Return the newest version's number; None where there is none."""
    return session.scalar(select(func.max(Version.number)).where(Version.model == model.name))


def find_version(session: Session, model: Model, wanted: str | int) -> Version:
    """Return a version by number or alias.

    Raises:
        NotFound: If there is none.
    """
    number: int | None
    if str(wanted).isdecimal():
        number = int(wanted) if len(str(wanted)) < 10 else None
    elif wanted == LATEST:
        number = latest_version(session, model)
    elif wanted == DEFAULT:
        number = default_version(session, model)
    else:
        alias = session.get(Alias, (model.name, wanted))
        number = alias.version if alias else None
    version = session.get(Version, (model.name, number)) if number else None
    if version is None:
        raise missing("version", f"{wanted}' of model '{model.name}")
    return version


def put_alias(session: Session, model: Model, alias: str, number: int) -> tuple[Alias, bool]:
    """Put an alias on a version, moving it if it is on another; say whether it is new.

    Raises:
        Conflict: If the alias is one that moves by itself or reads as a number.
        Invalid: If there is no such version.
    """
    if alias == LATEST or alias.isdecimal():
        raise Conflict(
            f"'{alias}' cannot be put: 'latest' is always the newest version, numbers are versions"
        )
    if session.get(Version, (model.name, number)) is None:
        raise Invalid.at("/version", f"model '{model.name}' has no version {number}")
    row = session.get(Alias, (model.name, alias))
    if row is not None:
        row.version = number
        return row, False
    row = Alias(name=alias, version=number)
    model.aliases.append(row)
    session.flush()
    return row, True


def remove_alias(session: Session, model: Model, alias: str) -> None:
    """Remove an alias; without ``default``, the newest version is the default.

    Raises:
        NotFound: If the model does not have it.
    """
    row = session.get(Alias, (model.name, alias))
    if row is None:
        raise missing(f"alias of model '{model.name}' named", alias)
    model.aliases.remove(row)


def _registered(session: Session, names: Sequence[str]) -> list[Task]:
    known = {task.name: task for task in session.scalars(select(Task).where(Task.name.in_(names)))}
    faults: list[Fault] = []
    for i, name in enumerate(names):
        if name not in known:
            faults.append(Fault(pointer_to("tasks", i), f"there is no task '{name}'"))
        elif name in names[:i]:
            faults.append(Fault(pointer_to("tasks", i), f"task '{name}' is named twice"))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    return [known[name] for name in names]
