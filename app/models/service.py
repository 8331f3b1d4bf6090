"""The rules for models: tasks that agree on what they share; versions found by number or alias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.tables import Alias, Model, ModelTask, Run, Task, Version
from app.models.serving import Serving
from app.models.tasks import (
    ARCHITECTURE,
    architecture_of,
    canonical,
    check_together,
    outline_of,
    registered_tasks,
    report_of,
    spec_of,
    written_out,
)
from app.problems import Conflict, Invalid, missing
from mtl_core.architectures import Architecture, TaskOutline, expand
from mtl_core.building.tasks import Limits
from mtl_core.errors import Fault, SpecError, pointer_to, suggestion
from mtl_core.specs import TaskSpec

LATEST, DEFAULT = "latest", "default"


def create(
    session: Session,
    name: str,
    architecture: Architecture | None,
    tasks: Sequence[str | TaskOutline],
    limits: Limits,
) -> tuple[Model, bool]:
    """Make a model of registered tasks, or of an architecture and outlines of tasks.

    Args:
        session: The transaction.
        name: The model's name.
        architecture: What the outlined tasks share; None for registered tasks.
        tasks: Names of registered tasks, or outlines of the model's own.
        limits: What the model may ask for.

    Returns:
        The model, and whether it is new: the same tasks again find the first.

    Raises:
        Invalid: If a registered task is unknown or named twice, or names and outlines are mixed.
        SpecError: If the architecture cannot be written out for these tasks, or what comes of it is too large.
        ModuleConflictError: If two registered tasks declare one module name differently.
        Conflict: If the name stands for another model.
    """
    names, outlines = _one_form(architecture, tasks)
    made = (
        written_out(architecture, outlines, limits)
        if architecture
        else registered_tasks(_registered(session, names))
    )
    existing = session.get(Model, name)
    if existing is not None:
        if _differs(existing, architecture, made):
            raise Conflict(f"model '{name}' exists with other tasks: {task_names(existing)}")
        return existing, False
    if architecture is None:
        check_together([spec_of(task) for task in made], [report_of(task) for task in made], limits)
    model = Model(
        name=name,
        architecture=architecture.model_dump(mode="json") if architecture else None,
        tasks=made,
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
    """Put a registered task on a model; say whether it was not there before.

    Raises:
        Conflict: If the model has an architecture.
        Invalid: If the task is unknown.
        ModuleConflictError: If it declares a module name differently from a task of the model.
    """
    if model.architecture is not None:
        raise Conflict(
            f"model '{model.name}' has an architecture: put an outline of a task on it, with name and kind"
        )
    if task in task_names(model):
        return False
    row = session.get(Task, task)
    if row is None:
        raise Invalid.at("/task", f"there is no task '{task}'")
    position = 1 + max(link.position for link in model.tasks)
    (link,) = registered_tasks([row], position)
    together = [*model.tasks, link]
    check_together([spec_of(task) for task in together], [report_of(task) for task in together], limits)
    model.tasks.append(link)
    session.flush()
    return True


def put_outline(session: Session, model: Model, outline: TaskOutline, limits: Limits) -> bool:
    """Put a task on a model with an architecture, which is written out anew; say whether it was not there before.

    Raises:
        Conflict: If the model has no architecture, or has another task of that name.
        SpecError: If the architecture cannot be written out with the task; points into the outline.
    """
    architecture = architecture_of(model)
    if architecture is None:
        raise Conflict(f"model '{model.name}' is made of registered tasks: put one on it by its name")
    names = task_names(model)
    is_new = outline.name not in names
    position = len(names) if is_new else names.index(outline.name)
    outlines = [outline_of(link) for link in model.tasks]
    outlines[position : position + 1] = [outline]
    try:
        made = written_out(architecture, outlines, limits)
    except SpecError as error:
        at = pointer_to("tasks", position)
        faults = [
            Fault(fault.pointer.removeprefix(at) if fault.pointer.startswith(at) else "", fault.detail)
            for fault in error.faults
        ]
        raise SpecError(faults) from None
    if is_new:
        _rewrite(model, made)
        session.flush()
    elif canonical(made[position]) != canonical(model.tasks[position]):
        raise Conflict(f"model '{model.name}' has another task '{outline.name}'")
    return is_new


def take_task(session: Session, model: Model, task: str, limits: Limits) -> None:
    """Take a task off a model, writing its architecture out anew if it has one; versions keep the task.

    Raises:
        NotFound: If the model does not have it.
        Conflict: If it is the model's only task.
    """
    link = find_task(model, task)
    if len(model.tasks) == 1:
        raise Conflict(f"task '{task}' is the only one of model '{model.name}': remove the model instead")
    model.tasks.remove(link)
    architecture = architecture_of(model)
    if architecture is not None:
        _rewrite(model, written_out(architecture, [outline_of(link) for link in model.tasks], limits))
    session.flush()


def find_task(model: Model, task: str) -> ModelTask:
    """Return a task's place in a model.

    Raises:
        NotFound: If the model does not have it.
    """
    link = next((link for link in model.tasks if link.task == task), None)
    if link is None:
        raise missing(f"task of model '{model.name}' named", task)
    return link


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
    return [link.task for link in model.tasks]


def specs_of(model: Model) -> list[TaskSpec]:
    """Return the specs of a model's tasks in order."""
    return [spec_of(link) for link in model.tasks]


def argument_fault(model: Model, name: str) -> str | None:
    """Say why no argument of a model's architecture has a name; None if one has."""
    if model.architecture is None:
        return f"model '{model.name}' has no architecture: its tasks are registered ones"
    known = sorted(model.architecture.keys() - {"type"})
    if name in known:
        return None
    return f"'{model.architecture['type']}' has no argument '{name}'; it has {', '.join(known)}"


def expanded(model: Model, architecture_overrides: Mapping[str, Any]) -> list[TaskSpec]:
    """Return the specs that a model's tasks would have with some sizes of its architecture changed.

    Args:
        model: One with an architecture; it stays as it is.
        architecture_overrides: Values by the names of the architecture's arguments, such as ``experts``.

    Raises:
        Invalid: At ``/<argument>`` if the model has no architecture, the architecture has no such argument, or the
            value does not suit it.
    """
    first = pointer_to(*list(architecture_overrides)[:1])
    faults = [
        Fault(pointer_to(name), fault)
        for name in architecture_overrides
        if (fault := argument_fault(model, name)) is not None
    ]
    specs: list[TaskSpec] = []
    if not faults:
        try:
            architecture = ARCHITECTURE.validate_python(
                {**(model.architecture or {}), **architecture_overrides}
            )
            specs = expand(architecture, [outline_of(link) for link in model.tasks])
        except ValidationError as error:
            # The place of what an argument breaks begins with the architecture's type.
            faults = [
                Fault(pointer_to(*entry["loc"][1:]) or first, entry["msg"].removeprefix("Value error, "))
                for entry in error.errors()
            ]
        except SpecError as error:
            faults = [Fault(first, fault.detail) for fault in error.faults]
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    return specs


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


def aliases_of(session: Session, version: Version) -> list[str]:
    """Return all names that stand for a version now, ``latest`` and ``default`` among them."""
    model = get(session, version.model)
    aliases = sorted(alias.name for alias in model.aliases if alias.version == version.number)
    if version.number == latest_version(session, model):
        aliases.append(LATEST)
    if DEFAULT not in aliases and version.number == default_version(session, model):
        aliases.append(DEFAULT)
    return aliases


def find_version(session: Session, model: Model, wanted: str | int) -> Version:
    """Return a version by number or alias.

    Raises:
        NotFound: If there is none.
    """
    version = session.scalar(
        select(Version).where(Version.model == model.name, Version.number == _number(model.name, wanted))
    )
    if version is None:
        raise missing("version", f"{wanted}' of model '{model.name}")
    return version


def check_tasks_of(version: Version, wanted: Sequence[str] | None) -> None:
    """Refuse names that are none of a version's tasks.

    Raises:
        Invalid: At ``/tasks/<i>`` for each of them.
    """
    known = [spec["name"] for spec in version.tasks]
    faults = [
        Fault(
            pointer_to("tasks", i),
            f"version {version.number} has no task '{name}': {suggestion(name, known)}",
        )
        for i, name in enumerate(wanted or [])
        if name not in known
    ]
    if faults:
        raise Invalid(faults[0].detail, faults)


def served_version(
    session: Session, name: str, wanted: str | int
) -> tuple[int, str, str | None, dict[str, Any] | None]:
    """Return what a model's predictions go by now, in one small query.

    Args:
        session: The transaction.
        name: The model's name.
        wanted: A number or an alias.

    Returns:
        The version's number, its checksum, that of its preprocessing, and how the model is to be served.

    Raises:
        NotFound: If there is no such model or version.
    """
    found = session.execute(
        select(Version.number, Version.sha256, Version.preprocessing, Model.serving)
        .join(Model, Model.name == Version.model)
        .where(Version.model == name, Version.number == _number(name, wanted))
    ).one_or_none()
    if found is None:
        get(session, name)
        raise missing("version", f"{wanted}' of model '{name}")
    number, sha256, preprocessing, serving = found
    return number, sha256, preprocessing, serving


def pinned(session: Session) -> set[str]:
    """Return the names of the models whose default versions servers keep loaded."""
    found = session.execute(select(Model.name, Model.serving).where(Model.serving.is_not(None)))
    return {name for name, serving in found if Serving.model_validate(serving).pinned}


def _number(name: str, wanted: str | int) -> Any:
    """Return, as SQL, the number of the version that a number or an alias of a model stands for."""
    newest = select(func.max(Version.number)).where(Version.model == name).scalar_subquery()
    placed = select(Alias.version).where(Alias.model == name, Alias.name == str(wanted)).scalar_subquery()
    if str(wanted).isdecimal():
        return int(wanted) if len(str(wanted)) < 10 else None
    if wanted == LATEST:
        return newest
    return func.coalesce(placed, newest) if wanted == DEFAULT else placed


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


def _one_form(
    architecture: Architecture | None, tasks: Sequence[str | TaskOutline]
) -> tuple[list[str], list[TaskOutline]]:
    """Return the tasks that are named and those that are outlined, after refusing those of the wrong form."""
    names = [task for task in tasks if isinstance(task, str)]
    outlines = [task for task in tasks if not isinstance(task, str)]
    detail = (
        "this is an outline, but without an architecture a model is made of registered tasks by name"
        if architecture is None
        else "this is a name, but a model with an architecture is made of outlines of its own tasks only"
    )
    is_named = architecture is None
    if faults := [
        Fault(pointer_to("tasks", i), detail)
        for i, task in enumerate(tasks)
        if isinstance(task, str) != is_named
    ]:
        raise Invalid(f"{faults[0].pointer}: {detail}", faults)
    return names, outlines


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


def _differs(model: Model, architecture: Architecture | None, made: Sequence[ModelTask]) -> bool:
    """Say whether a model is another one than would be made of an architecture and tasks."""
    if architecture_of(model) != architecture or task_names(model) != [task.task for task in made]:
        return True
    if architecture is None:
        return False
    return any(canonical(old) != canonical(new) for old, new in zip(model.tasks, made, strict=True))


def _rewrite(model: Model, made: Sequence[ModelTask]) -> None:
    """Put what an architecture makes now of a model's tasks, and perhaps of a new one, in the place of what it made."""
    present = {link.task: link for link in model.tasks}
    for task in made:
        link = present.get(task.task)
        if link is None:
            model.tasks.append(task)
        else:
            link.position, link.spec, link.report = task.position, task.spec, task.report
