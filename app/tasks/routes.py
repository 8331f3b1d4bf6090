"""HTTP of tasks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Response
from sqlalchemy import select

from app.db.tables import Task
from app.http.conditional import IfMatchDep
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import ResourcesDep, SessionDep, TaskPath
from app.problems import problem_responses
from app.tasks import service
from app.tasks.schemas import CIRCLE_TASK, TaskOut
from mtl_core.specs import TaskSpec

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=Endpoint)


@router.post(
    "",
    status_code=201,
    summary="Register a task",
    responses={200: {"model": TaskOut, "description": "The same task exists already"}}
    | problem_responses(400, 409, 413, 415, 422),
)
def register_task(
    spec: Annotated[TaskSpec, Body(examples=[CIRCLE_TASK])],
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
) -> TaskOut:
    """Check a task's spec from end to end, down to the sizes along its path, and store it."""
    task, created = service.register(session, spec, resources.settings.limits)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/tasks/{task.name}"
    return _out(task)


@router.get("", summary="List tasks", responses=problem_responses(422))
def list_tasks(session: SessionDep, paging: PagingDep) -> Page[TaskOut]:
    """List tasks by name."""
    return paging.page(session, select(Task), Task.name, _out)


@router.get("/{task}", summary="Read a task", responses=problem_responses(404, 422))
def get_task(task: TaskPath, session: SessionDep) -> TaskOut:
    """Return a task's spec with defaults filled in, and its sizes."""
    return _out(service.get(session, task))


@router.delete(
    "/{task}",
    status_code=204,
    response_class=Response,
    summary="Remove a task",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_task(task: TaskPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove a task that no model uses."""
    row = service.get(session, task)
    if_match.check(lambda: _out(row))
    service.remove(session, row)


def _out(task: Task) -> TaskOut:
    report = service.report_of(task)
    return TaskOut.model_validate(
        task.spec
        | {
            "parameters": report.parameters,
            "input_fields": task.report["fields"],
            "output_shape": report.output_shape,
            "created_at": task.created_at,
        }
    )
