"""HTTP of the Open Inference Protocol, version 2."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.db import migrations
from app.http.direct import UNREAD, DirectRoute, deadline_of
from app.http.endpoint import Endpoint, read_body
from app.http.resources import ModelPath, ResourcesDep, VersionPath
from app.models import service as models
from app.open_inference.schemas import (
    InferIn,
    InferOut,
    LiveOut,
    ModelMetadataOut,
    ModelReadyOut,
    ServerOut,
    ServerReadyOut,
    TensorOut,
)
from app.open_inference.service import Inference
from app.open_inference.tensors import datatype_of
from app.predictions import service as predictions
from app.predictions.current import Served
from app.problems import Invalid, NotReady, problem_responses

router = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=Endpoint)
direct = APIRouter(prefix="/v2", tags=["open inference protocol"], route_class=DirectRoute)

_HEADER_LENGTH = "Inference-Header-Content-Length"
_VERSION = "/models/{model}/versions/{version}"
_INFER: dict[str, Any] = {
    "summary": "Predict",
    "response_model": InferOut,
    "response_model_exclude_none": True,
    "responses": problem_responses(400, 404, 413, 415, 422, 504),
    "openapi_extra": {"requestBody": {"required": True}},
}


@router.get("", summary="Describe the server")
async def get_server(request: Request) -> ServerOut:
    """Return the server's name, version and extensions of the protocol."""
    return ServerOut(name="taskloom", version=request.app.version, extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Is the server up")
async def get_live() -> LiveOut:
    """Answer as long as the process is up."""
    return LiveOut()


@router.get("/health/ready", summary="Can the server predict", responses=problem_responses())
def get_ready(resources: ResourcesDep) -> ServerReadyOut:
    """Check that the database answers at the newest revision."""
    if behind := migrations.pending(resources.db.engine):
        raise NotReady(behind)
    return ServerReadyOut()


@router.get("/models/{model}", summary="Describe a model", responses=problem_responses(404, 422))
async def get_model_metadata(model: ModelPath, request: Request, resources: ResourcesDep) -> ModelMetadataOut:
    """Return the fields and outputs of a model's default version, and what versions there are."""
    served = await _served(request, model, models.DEFAULT)

    def versions() -> list[int]:
        with resources.db.read() as session:
            return models.versions_of(session, models.get(session, model))

    return _metadata(served, await run_in_threadpool(versions))


@router.get(_VERSION, summary="Describe a version", responses=problem_responses(404, 422))
async def get_version_metadata(model: ModelPath, version: VersionPath, request: Request) -> ModelMetadataOut:
    """Return a version's fields and outputs."""
    served = await _served(request, model, version)
    return _metadata(served, [served.loaded.number])


@router.get("/models/{model}/ready", summary="Load a model", responses=problem_responses(404, 422))
async def get_model_ready(model: ModelPath, request: Request) -> ModelReadyOut:
    """Say that a model's default version is loaded, and load it if it is not."""
    await _served(request, model, models.DEFAULT)
    return ModelReadyOut(name=model)


@router.get(f"{_VERSION}/ready", summary="Load a version", responses=problem_responses(404, 422))
async def get_version_ready(model: ModelPath, version: VersionPath, request: Request) -> ModelReadyOut:
    """Say that a version is loaded, and load it if it is not."""
    await _served(request, model, version)
    return ModelReadyOut(name=model)


@direct.post("/models/{model}/infer", **_INFER)
async def infer(request: Request, model: ModelPath, _body: InferIn = UNREAD) -> Response:
    """Predict with a model's default version; tensors come and go in JSON or, as the protocol's extension has it, after
    it.
    """
    return await _infer(request, model, models.DEFAULT)


@direct.post(f"{_VERSION}/infer", **_INFER)
async def infer_by_version(
    request: Request, model: ModelPath, version: VersionPath, _body: InferIn = UNREAD
) -> Response:
    """Predict with a version."""
    return await _infer(request, model, version)


async def _infer(request: Request, model: str, version: str) -> Response:
    deadline = deadline_of(request)
    content = await read_body(request)
    asked = Inference(content, _header_bytes(request, len(content)))
    served = await _served(request, model, version)
    question = asked.question(served, version)
    request_id = request.scope["request_id"]
    predicted = await predictions.predict_with(
        served, question, asked.rows, len(content), request_id, deadline
    )
    answer, header_bytes = asked.answer(model, predicted.version, predicted.by_task)
    if header_bytes == len(answer):
        return Response(answer, media_type="application/json")
    headers = {_HEADER_LENGTH: str(header_bytes)}
    return Response(answer, media_type="application/octet-stream", headers=headers)


def _header_bytes(request: Request, n: int) -> int:
    """Return how many of a body's bytes are JSON."""
    given = request.headers.get(_HEADER_LENGTH, str(n))
    if not (given.isascii() and given.isdecimal() and len(given) < 12):
        detail = "this is a number of bytes"
        raise Invalid(detail, [{"parameter": _HEADER_LENGTH, "detail": detail}])
    return int(given)


async def _served(request: Request, model: str, version: str) -> Served:
    return await predictions.served_by(request.app.state.current_versions, model, version)


def _metadata(served: Served, versions: list[int]) -> ModelMetadataOut:
    loaded = served.loaded
    inputs = [
        TensorOut(
            name=name,
            datatype="FP32" if known.dtype == "float32" else "INT64",
            shape=[-1, *(known.shape if known.shape is not None else [-1])],
        )
        for name, known in loaded.fields.items()
    ]
    outputs = [
        TensorOut(name=name, datatype=datatype_of(example), shape=[-1, *example.shape[1:]])
        for name, example in served.warm_up.outputs.items()
    ]
    return ModelMetadataOut(
        name=loaded.model,
        versions=[str(number) for number in versions],
        platform="pytorch",
        inputs=inputs,
        outputs=outputs,
    )
