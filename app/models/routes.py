"""HTTP of models, their versions and aliases."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Body, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Model, ModelTask, Version
from app.http.conditional import IfMatchDep
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import AliasPath, ModelPath, ResourcesDep, SessionDep, TaskPath, VersionPath
from app.models import service
from app.models.graph import graph_of
from app.models.schemas import (
    TASK_TO_PUT,
    AliasIn,
    ModelChange,
    ModelIn,
    ModelOut,
    ModelSummary,
    ModelTaskOut,
    ModuleOut,
    TaskRef,
    TaskToPut,
    VersionOut,
    VersionSummary,
)
from app.models.serving import Serving
from app.models.tasks import architecture_of, outline_of, report_of, spec_of
from app.problems import problem_responses
from app.scores.service import scores_by_key

router = APIRouter(prefix="/models", tags=["models"], route_class=Endpoint)


@router.post(
    "",
    status_code=201,
    summary="Make a model of tasks",
    responses={200: {"model": ModelOut, "description": "The same model exists already"}}
    | problem_responses(400, 409, 413, 415, 422),
)
def create_model(body: ModelIn, resources: ResourcesDep, session: SessionDep, response: Response) -> ModelOut:
    """Make a model of registered tasks, or of an architecture in its short form and outlines of tasks.

    Modules of one name are one module. Outlined tasks are the model's own: other models may have others of their names.
    """
    limits = resources.settings.limits
    model, created = service.create(session, body.name, body.architecture, body.tasks, limits)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/models/{model.name}"
    return _out(session, model)


@router.get("", summary="List models", responses=problem_responses(422))
def list_models(session: SessionDep, paging: PagingDep) -> Page[ModelSummary]:
    """List models by name."""
    return paging.page(session, select(Model), Model.name, lambda model: _summary(session, model))


@router.get("/{model}", summary="Read a model", responses=problem_responses(404, 422))
def get_model(model: ModelPath, session: SessionDep) -> ModelOut:
    """Return a model's tasks, the modules they share, the graph of their operations, and its versions."""
    return _out(session, service.get(session, model))


@router.patch(
    "/{model}",
    summary="Change how a model is served",
    responses=problem_responses(400, 404, 412, 413, 415, 422),
)
def change_model(model: ModelPath, body: ModelChange, session: SessionDep, if_match: IfMatchDep) -> ModelOut:
    """Say how a model's predictions are computed: what is computed together, what may wait, what stays loaded, and how
    many are logged.
    """
    row = service.get(session, model)
    if_match.check(lambda: _out(session, row))
    row.serving = body.serving.model_dump()
    return _out(session, row)


@router.delete(
    "/{model}",
    status_code=204,
    response_class=Response,
    summary="Remove a model",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_model(model: ModelPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove a model with its runs, versions and scores; its tasks and datasets stay."""
    row = service.get(session, model)
    if_match.check(lambda: _out(session, row))
    service.remove(session, row)


@router.post(
    "/{model}/tasks",
    status_code=201,
    summary="Put a task on a model",
    responses={200: {"model": ModelOut, "description": "The task is on the model already"}}
    | problem_responses(400, 404, 409, 413, 415, 422),
)
def put_task(
    model: ModelPath,
    body: Annotated[TaskToPut, Body(openapi_examples=TASK_TO_PUT)],
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
) -> ModelOut:
    """Put a task on; at the next run, modules that the model has already start from their trained weights.

    A model of registered tasks takes a registered one by its name; one with an architecture takes an outline, and is
    written out anew.
    """
    row, limits = service.get(session, model), resources.settings.limits
    if isinstance(body, TaskRef):
        added = service.put_task(session, row, body.task, limits)
    else:
        added = service.put_outline(session, row, body, limits)
    response.status_code = 201 if added else 200
    response.headers["Location"] = f"/v1/models/{row.name}"
    return _out(session, row)


@router.get("/{model}/tasks", summary="List a model's tasks", responses=problem_responses(404, 422))
def list_model_tasks(model: ModelPath, session: SessionDep, paging: PagingDep) -> Page[ModelTaskOut]:
    """List a model's tasks by name, each written out in full."""
    row = service.get(session, model)
    statement = select(ModelTask).where(ModelTask.model == row.name)
    return paging.page(session, statement, ModelTask.task, _task)


@router.get("/{model}/tasks/{task}", summary="Read a model's task", responses=problem_responses(404, 422))
def get_model_task(model: ModelPath, task: TaskPath, session: SessionDep) -> ModelTaskOut:
    """Return the spec of a model's task, written out in full, and its sizes."""
    return _task(service.find_task(service.get(session, model), task))


@router.delete(
    "/{model}/tasks/{task}",
    status_code=204,
    response_class=Response,
    summary="Take a task off a model",
    responses=problem_responses(404, 409, 412, 422),
)
def take_task(
    model: ModelPath, task: TaskPath, resources: ResourcesDep, session: SessionDep, if_match: IfMatchDep
) -> None:
    """Take a task off; the modules that stay keep their trained weights, and earlier versions keep the task."""
    row = service.get(session, model)
    if_match.check(lambda: _out(session, row))
    service.take_task(session, row, task, resources.settings.limits)


@router.get("/{model}/versions", summary="List a model's versions", responses=problem_responses(404, 422))
def list_versions(model: ModelPath, session: SessionDep, paging: PagingDep) -> Page[VersionSummary]:
    """List versions, newest first."""
    row = service.get(session, model)
    statement = select(Version).where(Version.model == row.name)
    return paging.page(
        session,
        statement,
        Version.number,
        lambda version: VersionSummary.model_validate(_version(session, version)),
        newest_first=True,
    )


@router.get("/{model}/versions/{version}", summary="Read a version", responses=problem_responses(404, 422))
def get_version(model: ModelPath, version: VersionPath, session: SessionDep) -> VersionOut:
    """Return a version with the run and tasks that made it, its size, checksum and scores."""
    row = service.get(session, model)
    found = service.find_version(session, row, version)
    scores = scores_by_key(session, model, found.number)
    return VersionOut.model_validate(_version(session, found) | {"scores": scores})


@router.put(
    "/{model}/aliases/{alias}",
    summary="Put an alias on a version",
    responses={201: {"model": VersionSummary, "description": "The alias is new"}}
    | problem_responses(400, 404, 409, 412, 413, 415, 422),
)
def put_alias(
    model: ModelPath,
    alias: AliasPath,
    body: AliasIn,
    session: SessionDep,
    response: Response,
    if_match: IfMatchDep,
) -> VersionSummary:
    """Make an alias or move it; moving `default` back to an earlier version is a roll-back.

    `If-Match` takes the ETag of the model.
    """
    row = service.get(session, model)
    if_match.check(lambda: _out(session, row))
    placed, created = service.put_alias(session, row, alias, body.version)
    response.status_code = 201 if created else 200
    version = service.find_version(session, row, placed.version)
    return VersionSummary.model_validate(_version(session, version))


@router.delete(
    "/{model}/aliases/{alias}",
    status_code=204,
    response_class=Response,
    summary="Remove an alias",
    responses=problem_responses(404, 412, 422),
)
def delete_alias(model: ModelPath, alias: AliasPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove an alias; without `default`, predictions use the newest version. `If-Match` takes the model's ETag."""
    row = service.get(session, model)
    if_match.check(lambda: _out(session, row))
    service.remove_alias(session, row, alias)


def _summary(session: Session, model: Model) -> ModelSummary:
    return ModelSummary(
        name=model.name,
        tasks=service.task_names(model),
        versions=service.versions_of(session, model),
        default_version=service.default_version(session, model),
        created_at=model.created_at,
    )


def _out(session: Session, model: Model) -> ModelOut:
    specs = service.specs_of(model)
    held = {link.task: report_of(link).parameters for link in model.tasks}
    parameters = {name: n for of_task in held.values() for name, n in of_task.items()}
    modules = [
        ModuleOut(name=name, parameters=n, used_by=[task for task, names in held.items() if name in names])
        for name, n in parameters.items()
    ]
    return ModelOut(
        **_summary(session, model).model_dump(),
        architecture=architecture_of(model),
        modules=modules,
        parameters=sum(parameters.values()),
        graph=graph_of(specs),
        aliases={alias.name: alias.version for alias in model.aliases},
        serving=Serving.model_validate(model.serving or {}),
    )


def _task(link: ModelTask) -> ModelTaskOut:
    report = report_of(link)
    return ModelTaskOut.model_validate(
        spec_of(link).written_out()
        | {
            "registered": link.task_row is not None,
            "outline": outline_of(link) if link.outline else None,
            "parameters": report.parameters,
            "input_fields": {name: asdict(field) for name, field in report.fields.items()},
            "output_shape": report.output_shape,
        }
    )


def _version(session: Session, version: Version) -> dict[str, object]:
    return {
        "model": version.model,
        "version": version.number,
        "aliases": service.aliases_of(session, version),
        "run": version.run,
        "tasks": [task["name"] for task in version.tasks],
        "parameters": version.parameters,
        "bytes": version.bytes,
        "sha256": version.sha256,
        "created_at": version.created_at,
    }
