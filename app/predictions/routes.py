"""HTTP of predictions."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.http.endpoint import Endpoint
from app.http.resources import ModelPath, ResourcesDep, TaskPath
from app.predictions import service
from app.predictions.loaded import LoadedVersion, LoadedVersions
from app.predictions.schemas import PredictIn, PredictManyIn, PredictManyOut, PredictOut
from app.problems import problem_responses

router = APIRouter(prefix="/models/{model}", tags=["predictions"], route_class=Endpoint)


def _loaded_versions(request: Request) -> LoadedVersions:
    return request.app.state.loaded_versions


VersionsDep = Annotated[LoadedVersions, Depends(_loaded_versions)]


@router.post(
    "/tasks/{task}/predict",
    summary="Predict for one task",
    response_model=PredictOut,
    responses=problem_responses(400, 404, 413, 415, 422),
)
def predict_task(
    model: ModelPath, task: TaskPath, body: PredictIn, resources: ResourcesDep, versions: VersionsDep
) -> Response:
    """Route inputs along the task's path."""
    loaded = _load(resources, versions, model, body)
    predicted = service.predict(loaded, [task], body, resources.settings.forward_numbers)
    return _json({"model": model, "version": loaded.number, "task": task, **predicted[task]})


@router.post(
    "/predict",
    summary="Predict for several tasks",
    response_model=PredictManyOut,
    responses=problem_responses(400, 404, 413, 415, 422),
)
def predict_tasks(
    model: ModelPath, body: PredictManyIn, resources: ResourcesDep, versions: VersionsDep
) -> Response:
    """Route inputs along the paths of several tasks in one forward pass; what they share is computed once."""
    loaded = _load(resources, versions, model, body)
    tasks = loaded.tasks if body.tasks is None else list(dict.fromkeys(body.tasks))
    predicted = service.predict(loaded, tasks, body, resources.settings.forward_numbers)
    return _json({"model": model, "version": loaded.number, "predictions": predicted})


def _load(resources: ResourcesDep, versions: LoadedVersions, model: str, body: PredictIn) -> LoadedVersion:
    with resources.db.read() as session:
        return versions.get(session, model, body.version)


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
