"""A request of the Open Inference Protocol → a prediction → its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from app.open_inference import tensors
from app.open_inference.schemas import InferIn
from app.open_inference.tensors import Values
from app.predictions.batching import Fields
from app.predictions.current import Served
from app.predictions.loaded import LoadedVersion, Route
from app.predictions.question import Question
from app.predictions.rows import Arrays, RawRows, Rows
from app.problems import Invalid, MalformedBody, problem_of_validation

_OPERATIONS = ".operations."
_WHOLE = ("preds", "classes", "probs", "outputs", "logits")


@dataclass(frozen=True)
class Tensors(Rows):
    """Tensors by name: fields, or raw columns.

    Attributes:
        values: Numbers ``[n, …]``, or ``n`` texts.
    """

    values: Mapping[str, Values]

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the fields, encoded where there is a column that is no field."""
        if loaded.are_raw(self.values.keys()):
            return self._columns().fields(loaded, route)
        arrays = {name: np.array(v, object) if isinstance(v, list) else v for name, v in self.values.items()}
        return Arrays(arrays).fields(loaded, route)

    def raw(self, loaded: LoadedVersion, n: int) -> dict[str, Any] | None:
        """Return the first rows of raw columns."""
        return self._columns().raw(loaded, n) if loaded.are_raw(self.values.keys()) else None

    def _columns(self) -> RawRows:
        return RawRows(columns={name: _listed(values) for name, values in self.values.items()})


def _listed(values: Values) -> list[Any]:
    if isinstance(values, list):
        return values
    return (values.reshape(-1) if values.size == len(values) else values).tolist()


class Inference:
    """An ``infer`` request that was read.

    Args:
        content: The body.
        header_bytes: How many of its bytes are JSON; the others hold tensors.

    Attributes:
        rows: Of what to predict.

    Raises:
        MalformedBody: If it is not JSON, or not as long as it says.
        Invalid: If it is not what the protocol has.
    """

    def __init__(self, content: bytes, header_bytes: int) -> None:
        if header_bytes > len(content):
            raise MalformedBody(f"the body has {len(content):,} bytes, and not {header_bytes:,} of JSON")
        try:
            document: Any = orjson.loads(memoryview(content)[:header_bytes])
        except orjson.JSONDecodeError as error:
            raise MalformedBody(f"the body is not JSON: {error.msg}") from None
        data = _taken_out(document)
        try:
            self._asked = InferIn.model_validate(document)
        except ValidationError as error:
            raise problem_of_validation(error, "body", document) from None
        self.rows = Tensors(self._tensors(data, content, header_bytes))

    def _tensors(self, data: list[Any], content: bytes, at: int) -> dict[str, Values]:
        found: dict[str, Values] = {}
        for i, (tensor, values) in enumerate(zip(self._asked.inputs, data, strict=True)):
            pointer = f"/inputs/{i}"
            if tensor.name in found:
                raise Invalid.at(f"{pointer}/name", f"input '{tensor.name}' is there twice")
            size = tensor.parameters.get("binary_data_size")
            if (size is None) == (values is None):
                raise Invalid.at(pointer, "an input has either data or the parameter binary_data_size")
            if size is None:
                if not isinstance(values, list):
                    raise Invalid.at(f"{pointer}/data", "values come as a list")
                found[tensor.name] = tensors.from_json(
                    cast("list[Any]", values), tensor.datatype, tensor.shape, pointer
                )
                continue
            if type(size) is not int or not 0 <= size <= len(content) - at:
                detail = f"{size!r} is no number of the {len(content) - at:,} bytes that are left"
                raise Invalid.at(f"{pointer}/parameters/binary_data_size", detail)
            found[tensor.name] = tensors.from_bytes(
                content[at : at + size], tensor.datatype, tensor.shape, pointer
            )
            at += size
        if at != len(content):
            raise Invalid.at("/inputs", f"{len(content) - at:,} bytes are of no input")
        return found

    def question(self, served: Served, version: str) -> Question:
        """Return what is asked of a version.

        Raises:
            Invalid: If an output is wanted that it does not have.
        """
        tasks: list[str] = []
        returns: list[str] = []
        for i, output in enumerate(self._asked.outputs):
            if "classification" in output.parameters:
                raise Invalid.at(
                    f"/outputs/{i}/parameters/classification", "this extension is not known here"
                )
            task, wanted = _parts_of(output.name)
            if task not in served.loaded.tasks or not wanted:
                detail = f"there is no output '{output.name}'; there are {', '.join(served.warm_up.outputs)}"
                raise Invalid.at(f"/outputs/{i}/name", detail)
            tasks.append(task)
            returns.append("probs" if wanted == "outputs" else wanted)
        return Question(
            tuple(dict.fromkeys(tasks)) or None, tuple(dict.fromkeys(returns)) or ("preds", "probs"), version
        )

    def answer(self, model: str, version: int, by_task: Mapping[str, Mapping[str, Any]]) -> tuple[bytes, int]:
        """Return the answer's bytes, and how many of them are JSON: all of them where no tensor is wanted as bytes."""
        names = [output.name for output in self._asked.outputs] or [
            f"{task}.{name}" for task, answer in by_task.items() for name in answer if name in _WHOLE
        ]
        as_bytes = {output.name: output.parameters.get("binary_data") for output in self._asked.outputs}
        all_as_bytes = self._asked.parameters.get("binary_data_output", False) is True
        outputs: list[dict[str, Any]] = []
        binary: list[bytes] = []
        for i, name in enumerate(names):
            values = _values(name, by_task, i)
            shape = [len(values)] if isinstance(values, list) else list(values.shape)
            output: dict[str, Any] = {"name": name, "datatype": tensors.datatype_of(values), "shape": shape}
            wish = as_bytes.get(name)
            if all_as_bytes if wish is None else wish is True:
                binary.append(tensors.to_bytes(values))
                output["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                output["data"] = values if isinstance(values, list) else values.reshape(-1)
            outputs.append(output)
        document: dict[str, Any] = {"model_name": model, "model_version": str(version)}
        if self._asked.id is not None:
            document["id"] = self._asked.id
        header = orjson.dumps(document | {"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
        return b"".join([header, *binary]), len(header)


def _taken_out(document: Any) -> list[Any]:
    """Take the values of the inputs out of a document, for pydantic not to walk over them, and return them."""
    found: list[Any] = []
    inputs = cast("dict[str, Any]", document).get("inputs") if isinstance(document, dict) else None
    for tensor in cast("list[Any]", inputs) if isinstance(inputs, list) else []:
        found.append(cast("dict[str, Any]", tensor).pop("data", None) if isinstance(tensor, dict) else None)
    return found


def _parts_of(output: str) -> tuple[str, str]:
    """Return an output's task, and what is wanted of it as a question has it; nothing if there is no such thing."""
    task, between, operation = output.partition(_OPERATIONS)
    if between:
        return task, f"operation:{operation}"
    task, _, what = output.rpartition(".")
    return task, what if what in _WHOLE else ""


def _values(name: str, by_task: Mapping[str, Mapping[str, Any]], i: int) -> Values:
    task, wanted = _parts_of(name)
    answer = by_task[task]
    found = (
        answer["operations"][wanted.partition(":")[2]]
        if ":" in wanted
        else answer.get(name.rpartition(".")[2])
    )
    if isinstance(found, np.ndarray):
        return cast("NDArray[Any]", found)
    if isinstance(found, list) and "classes" in wanted:
        return [
            text if isinstance(text, str) else orjson.dumps(text).decode()
            for text in cast("list[Any]", found)
        ]
    raise Invalid.at(f"/outputs/{i}/name", f"there is no output '{name}': the task answers {sorted(answer)}")
