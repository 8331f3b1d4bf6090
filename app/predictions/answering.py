"""What a version answered → arrays by name, as they travel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from app.datasets.tensors import column_of
from app.predictions.loaded import Recipe, Route
from app.problems import Invalid, NotAcceptable
from mtl_core.model.paths import OPERATIONS

JSON = "application/json"
TENSOR = "application/octet-stream"
SAFETENSORS = "application/vnd.safetensors"
ARROW = "application/vnd.apache.arrow.stream"

MEDIA_TYPES = (JSON, TENSOR, SAFETENSORS, ARROW)
"""In which rows are taken and answers given."""

NAME, SHAPE, DTYPE = "X-Tensor-Name", "X-Tensor-Shape", "X-Tensor-Dtype"
"""Headers that say what the bytes of one tensor are."""

_NOT_FINITE = "what is null came out as no finite number"


@dataclass(frozen=True, slots=True)
class Answers:
    """What one forward pass answered, to one request or several.

    Attributes:
        by_task: For each task, arrays ``[n, …]`` by kind.
        is_finite: Whether all of their numbers are finite.
    """

    by_task: Mapping[str, Mapping[str, Any]]
    is_finite: bool

    @classmethod
    def of(cls, groups: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]]) -> Answers:
        """Return what tensors on the CPU hold: of one task ``[n, …]``, of several ``[tasks, n, …]``."""
        by_task: dict[str, dict[str, Any]] = {}
        is_finite = True
        for tasks, tensors in groups:
            arrays = {
                kind: np.ascontiguousarray(values.numpy())
                if type(values) is torch.Tensor
                else _arrays(values)
                for kind, values in tensors.items()
            }
            is_finite = is_finite and all(map(_is_finite, arrays.values()))
            if len(tasks) == 1:
                by_task[tasks[0]] = arrays
            else:
                for i, task in enumerate(tasks):
                    by_task[task] = {kind: array[i] for kind, array in arrays.items()}
        return cls(by_task, is_finite)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one request in what a forward pass answered.

    Attributes:
        answers: To all of the rows.
        rows: Which rows are the request's; None for all of them.
    """

    answers: Answers
    rows: slice | None


def predictions_of(route: Route, part: Part) -> dict[str, dict[str, Any]]:
    """Return each task's answer: arrays ``[n, …]`` by name, class names as lists.

    ``outputs`` stands in the place of ``probs`` for a task without classes.

    Raises:
        Invalid: If the likeliest classes are wanted of a task that has none.
    """
    return {recipe.task: _prediction(recipe, route, part) for recipe in route.recipes}


def _prediction(recipe: Recipe, route: Route, part: Part) -> dict[str, Any]:
    found, rows = part.answers.by_task[recipe.task], part.rows
    answer: dict[str, Any] = {}
    for kind, key in recipe.arrays:
        values = found[kind]
        if rows is not None:
            values = values[rows] if type(values) is np.ndarray else _rows(values, rows)
        answer[key] = (
            recipe.names[values].tolist() if key == "classes" and recipe.names is not None else values
        )
    if route.top_k is not None:
        probs = found["probs"] if rows is None else found["probs"][rows]
        answer["top_k"] = _top(recipe, probs, route.top_k)
    if OPERATIONS in found:
        answer[OPERATIONS] = found[OPERATIONS] if rows is None else _rows(found[OPERATIONS], rows)
    if recipe.names is not None:
        answer["class_names"] = recipe.class_names
    if not part.answers.is_finite and not _is_finite(answer):
        answer["reason"] = _NOT_FINITE
    return answer


def _top(recipe: Recipe, probs: NDArray[Any], k: int) -> dict[str, Any]:
    """Return the ``k`` likeliest classes of each row, the likeliest first; of equals, the first comes first."""
    if not recipe.has_classes or probs.ndim != 2 or probs.shape[1] < 2:
        raise Invalid.at(
            "/return", f"task '{recipe.task}' has no list of classes of which one is right: it has no top k"
        )
    classes = np.ascontiguousarray(np.argsort(-probs, axis=1, kind="stable")[:, :k])
    top = np.take_along_axis(probs, classes, axis=1)
    return {"classes": classes if recipe.names is None else recipe.names[classes].tolist(), "probs": top}


def first_rows(by_task: Mapping[str, Mapping[str, Any]], n: int) -> dict[str, dict[str, Any]]:
    """Return copies of the first rows of what was answered, without the names of the classes."""
    return {
        task: {name: _first(value, n, name) for name, value in answer.items() if name != "class_names"}
        for task, answer in by_task.items()
    }


def _first(value: Any, n: int, name: str) -> Any:
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)[:n].copy()
    if isinstance(value, str):
        return value
    # A list is of rows, save where an operation puts out several arrays.
    if name != OPERATIONS and isinstance(value, list):
        return cast("list[Any]", value)[:n]
    return _mapped(value, lambda item: _first(item, n, name))


def _arrays(value: Any) -> Any:
    """Return a value with arrays for its tensors, tuples as lists and mappings as dicts, for JSON has no others."""
    if isinstance(value, torch.Tensor):
        return np.ascontiguousarray(value.numpy())
    return _mapped(value, _arrays)


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)[rows]
    return _mapped(value, lambda item: _rows(item, rows))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): change(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    return [change(item) for item in value]


def _is_finite(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        numbers = cast("NDArray[Any]", value)
        return numbers.dtype.kind != "f" or bool(np.isfinite(numbers).all())
    if isinstance(value, Mapping):
        return all(map(_is_finite, cast("Mapping[str, Any]", value).values()))
    return not isinstance(value, list) or all(map(_is_finite, cast("list[Any]", value)))


def answer_bytes(
    media_type: str, model: str, version: int, by_task: Mapping[str, Mapping[str, Any]]
) -> tuple[bytes, dict[str, str]]:
    """Return an answer in a binary form, and the headers that go with it.

    Args:
        media_type: One of :data:`MEDIA_TYPES` but JSON.
        model: The model's name.
        version: The version's number.
        by_task: For each task, what was answered by name.

    Raises:
        NotAcceptable: If what was answered has no such form.
    """
    arrays = {f"{task}.{name}": array for task, answer in by_task.items() for name, array in _flat(answer)}
    if media_type == TENSOR:
        if len(arrays) != 1:
            raise NotAcceptable(
                f"one tensor is the form of one array; this has {len(arrays)}: {', '.join(arrays)}"
            )
        name, array = next(iter(arrays.items()))
        if not isinstance(array, np.ndarray):
            raise NotAcceptable(f"{name} has names, and no numbers")
        array = cast("NDArray[Any]", array)
        shape = ",".join(map(str, array.shape))
        return array.tobytes(), {
            NAME: name,
            SHAPE: shape,
            DTYPE: array.dtype.name,
            "X-Model-Version": str(version),
        }
    about = {"model": model, "version": str(version)}
    if media_type == SAFETENSORS:
        names = {task: answer["class_names"] for task, answer in by_task.items() if "class_names" in answer}
        about |= {"class_names": orjson.dumps(names).decode()} if names else {}
        numbers = {
            name: np.ascontiguousarray(cast("NDArray[Any]", array))
            for name, array in arrays.items()
            if isinstance(array, np.ndarray)
        }
        return save(numbers, about), {}
    table = table_of(by_task).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes(), {}


def table_of(by_task: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """Return what was answered as a table with a column ``{task}.{name}`` for each array."""
    return pa.table(
        {
            f"{task}.{name}": _column(values)
            for task, answer in by_task.items()
            for name, values in _flat(answer)
        }
    )


def _flat(answer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what was answered of one task, each array by the names that lead to it."""
    for name, value in answer.items():
        if name in ("class_names", "reason"):
            continue
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            items = cast("list[Any]", value)
            yield from _flat({str(i): item for i, item in enumerate(items)}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _column(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray):
        return column_of(torch.from_numpy(np.ascontiguousarray(cast("NDArray[Any]", values))))
    return pa.array(values)
