"""HTTP of predictions."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response

from app.http.direct import UNREAD, DirectRoute, deadline_of, header_of
from app.http.endpoint import is_json, read_body
from app.http.resources import ModelPath, TaskPath
from app.predictions import service
from app.predictions.answering import DTYPE, JSON, MEDIA_TYPES, NAME, SHAPE, answer_bytes
from app.predictions.binary import rows_of_bytes
from app.predictions.reading import JsonBody, question_in_query
from app.predictions.schemas import PredictIn, PredictManyIn, PredictManyOut, PredictOut
from app.problems import Invalid, NotAcceptable, UnsupportedMediaType, problem_responses

router = APIRouter(prefix="/v1/models/{model}", tags=["predictions"], route_class=DirectRoute)

_QUERY = ("version", "return", "tasks")
_BINARY = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES[1:]}


def _documented(
    timeout: Annotated[
        float | None,
        Header(
            alias="X-Request-Timeout",
            gt=0,
            description="Seconds that the client waits: what is not answered by then is answered 504, and not computed"
            " if that was not begun.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        Header(alias=NAME, description="Of one tensor as the body: its field; default: the only one."),
    ] = None,
    shape: Annotated[
        str | None,
        Header(alias=SHAPE, description="Of one tensor as the body: its sizes, rows first, as `256,64`."),
    ] = None,
    dtype: Annotated[
        str | None,
        Header(
            alias=DTYPE,
            description="Of one tensor as the body: its numbers, little-endian; default: `float32`.",
        ),
    ] = None,
    version: Annotated[str | None, Query(description="For binary bodies: as `version` in JSON.")] = None,
    returns: Annotated[
        str | None,
        Query(alias="return", description="For binary bodies: as `return` in JSON, with commas between."),
    ] = None,
) -> None:
    """Document what predictions read beside the body."""


_ANY_FORM: dict[str, Any] = {
    "response_model_exclude_unset": True,
    "dependencies": [Depends(_documented)],
    "openapi_extra": {"requestBody": {"required": True, "content": _BINARY}},
    "responses": {200: {"content": _BINARY}} | problem_responses(400, 404, 406, 413, 415, 422, 504),
}


@router.post("/tasks/{task}/predict", summary="Predict for one task", response_model=PredictOut, **_ANY_FORM)
async def predict_task(
    request: Request, model: ModelPath, task: TaskPath, _body: PredictIn = UNREAD
) -> Response:
    """Route inputs along the task's path.

    Rows come as JSON, as one little-endian tensor, as safetensors, or as an uncompressed Arrow stream of fields or raw
    columns; answers have the form that `Accept` names, by default that of the body.
    """
    predicted, form = await _predict(request, model, task)
    if form == JSON:
        return _json({"model": model, "version": predicted.version, "task": task, **predicted.by_task[task]})
    return _binary(predicted, form)


@router.post("/predict", summary="Predict for several tasks", response_model=PredictManyOut, **_ANY_FORM)
async def predict_tasks(
    request: Request,
    model: ModelPath,
    _body: PredictManyIn = UNREAD,
    _tasks: Annotated[
        str | None,
        Query(alias="tasks", description="For binary bodies: as `tasks` in JSON, with commas between."),
    ] = UNREAD,
) -> Response:
    """Route inputs along the paths of several tasks in one forward pass; what they share is computed once.

    Rows and answers have the forms that they have for one task.
    """
    predicted, form = await _predict(request, model, None)
    if form == JSON:
        return _json({"model": model, "version": predicted.version, "predictions": predicted.by_task})
    return _binary(predicted, form)


async def _predict(request: Request, model: str, task: str | None) -> tuple[service.Prediction, str]:
    """Return what was predicted, and the media type in which it is to be answered."""
    deadline = deadline_of(request)
    media_type = header_of(request, b"content-type") or ""
    if media_type != JSON:
        media_type = media_type.partition(";")[0].strip().lower()
        media_type = JSON if is_json(media_type) else media_type
    form = _accepted(request, media_type)
    content = await read_body(request)
    if media_type == JSON:
        if request.scope["query_string"] and any(name in request.query_params for name in _QUERY):
            raise Invalid(f"with a JSON body, {', '.join(_QUERY)} are members of it, and no query parameters")
        body = JsonBody(content, task)
        question, rows = body.question, body
    else:
        question = question_in_query(request.scope["query_string"], task)
        rows = rows_of_bytes(content, media_type, request.headers)
    current = request.app.state.current_versions
    request_id = request.scope["request_id"]
    predicted = await service.predict(current, model, question, rows, len(content), request_id, deadline)
    return predicted, form


def _accepted(request: Request, media_type: str) -> str:
    """Return the media type of the answer: the first that the client accepts, by default that of the body."""
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaType(
            f"rows come as {', '.join(MEDIA_TYPES)}; the body's Content-Type is {media_type or 'not given'!r}"
        )
    accepted = header_of(request, b"accept")
    if accepted is None or accepted == "*/*":
        return media_type
    for entry in accepted.split(","):
        named = entry.partition(";")[0].strip().lower()
        if named in MEDIA_TYPES:
            return named
        if named in ("*/*", f"{media_type.partition('/')[0]}/*"):
            return media_type
    raise NotAcceptable(f"answers come as {', '.join(MEDIA_TYPES)}")


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


def _binary(predicted: service.Prediction, form: str) -> Response:
    content, headers = answer_bytes(form, predicted.model, predicted.version, predicted.by_task)
    return Response(content, media_type=form, headers=headers)
