"""The Open Inference Protocol as it travels over HTTP; https://github.com/kserve/open-inference-protocol."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from app.wire import In, Out, shown_as

_INPUT: dict[str, Any] = {
    "name": "circle_data",
    "shape": [2, 2],
    "datatype": "FP32",
    "data": [0.1, 0.2, 0.9, 0.9],
}
_OUTPUTS: list[dict[str, Any]] = [
    {"name": "circle_task.preds", "datatype": "INT64", "shape": [2], "data": [1, 0]},
    {
        "name": "circle_task.probs",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [0.08, 0.92, 0.97, 0.03],
    },
]

Size = Annotated[int, Field(strict=True, ge=0, le=2**40)]
Parameters = dict[str, Any]


class ServerOut(
    Out,
    json_schema_extra=shown_as(
        {"name": "taskloom", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
    ),
):
    """The server."""

    name: str
    version: str
    extensions: list[str]
    """What it knows beyond the protocol itself."""


class LiveOut(Out):
    """Whether the server answers."""

    live: bool = True


class ServerReadyOut(Out):
    """Whether the server can predict."""

    ready: bool = True


class ModelReadyOut(Out, json_schema_extra=shown_as({"name": "shapes", "ready": True})):
    """Whether a version can be asked for predictions; it is loaded then."""

    name: str
    ready: bool = True


class TensorOut(Out):
    """What a tensor looks like; -1 where its size may be any."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadataOut(
    Out,
    json_schema_extra=shown_as(
        {
            "name": "shapes",
            "versions": ["1"],
            "platform": "pytorch",
            "inputs": [{"name": "circle_data", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "circle_task.probs", "datatype": "FP32", "shape": [-1, 2]}],
        }
    ),
):
    """A version's fields, and what it can be asked for."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorOut]
    """The fields that it reads; raw columns by their names may be sent in their place, if it was trained on such."""
    outputs: list[TensorOut]
    """`<task>.<what>`; `<task>.classes` and `<task>.operations.<operation>` may be asked for too."""


class InferInput(In):
    """A tensor to predict from."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    """A field, or a raw column."""
    shape: Annotated[list[Size], Field(min_length=1, max_length=9)]
    datatype: Annotated[str, Field(max_length=8)]
    """`FP32`, `FP64`, `FP16`, `INT8` to `INT64`, `UINT8` to `UINT32`, `BOOL`, or `BYTES` for texts."""
    parameters: Parameters = Field({})
    """`binary_data_size`, where the values follow the JSON as bytes."""
    data: list[Any] | None = None
    """The values, flat or nested."""


class InferRequestedOutput(In):
    """A tensor that is wanted."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    """`<task>.preds`, `<task>.probs`, `<task>.logits` and so on."""
    parameters: Parameters = Field({})
    """`binary_data`, whether it is to follow the JSON as bytes."""


class InferIn(In, json_schema_extra=shown_as({"inputs": [_INPUT]})):
    """What to predict, and from what."""

    id: Annotated[str, Field(max_length=1000)] | None = None
    """Given back as it is."""
    parameters: Parameters = Field({})
    """`binary_data_output`, whether all outputs are to follow the JSON as bytes."""
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=10_000)]
    outputs: list[InferRequestedOutput] = Field([], max_length=10_000)
    """Default: predictions and probabilities, or values, of every task."""


class InferOutput(Out):
    """A tensor that was predicted."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferOut(
    Out, json_schema_extra=shown_as({"model_name": "shapes", "model_version": "1", "outputs": _OUTPUTS})
):
    """What was predicted."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]
