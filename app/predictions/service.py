"""A prediction: inputs → tensors → forward along the tasks' paths → arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from app.datasets.tensors import TORCH_DTYPES, as_dtype, tensor_from_json
from app.predictions.loaded import LoadedVersion
from app.predictions.schemas import PredictIn, ReturnKind
from app.problems import Invalid, missing
from mtl_core.errors import Fault, pointer_to
from mtl_core.preprocessing import ColumnError, columns_from_lists, columns_from_records


def predict(
    loaded: LoadedVersion,
    tasks: Sequence[str],
    body: PredictIn,
    max_numbers: int,
) -> dict[str, dict[str, Any]]:
    """Predict rows for several tasks in one forward pass.

    Args:
        loaded: The version.
        tasks: Names of its tasks.
        body: The rows, and what to answer of them.
        max_numbers: Numbers that a forward pass may take; more rows are computed in turns.

    Returns:
        For each task, arrays ``[n, …]`` by name; ``outputs`` in place of ``probs`` for a task without classes.

    Raises:
        NotFound: If the version lacks a task.
        Invalid: If a field or column is missing, unknown, or not of the form that the version was trained on.
        OperationError: If a module refuses its inputs' values.
    """
    for name in tasks:
        if name not in loaded.tasks:
            raise missing(f"task of version {loaded.number} of model '{loaded.model}' named", name)
    X_dict = _tensors(loaded, tasks, body.inputs) if body.inputs else _encoded(loaded, tasks, body)
    n_rows = len(next(iter(X_dict.values())))
    step = max(1, max_numbers // max(1, loaded.activations))
    parts = [
        loaded.classifier.infer({name: values[i : i + step] for name, values in X_dict.items()}, tasks)
        for i in range(0, n_rows, step)
    ]
    return {name: _answer(loaded, name, [part[name] for part in parts], body.returns) for name in tasks}


def _encoded(loaded: LoadedVersion, tasks: Sequence[str], body: PredictIn) -> dict[str, torch.Tensor]:
    """Encode raw rows, by the same code and the same statistics as the training data was."""
    known = loaded.preprocessing.fields
    needed = _needed(loaded, tasks)
    for field in needed:
        if field not in known:
            raise Invalid.at(
                "", f"the version was not trained on raw columns for field '{field}': send inputs"
            )
    fields = {field: known[field] for field in needed}
    by_column = body.columns is not None
    raw = (
        columns_from_lists(fields, body.columns)
        if body.columns is not None
        else columns_from_records(fields, body.records or [])
    )
    tensors: dict[str, torch.Tensor] = {}
    for name, field in fields.items():
        try:
            encoded = torch.from_numpy(field.encode(raw, loaded.encoders))
        except ColumnError as error:
            row = 0 if error.row is None else error.row
            at = ("columns", error.column, row) if by_column else ("records", row, error.column)
            raise Invalid.at(pointer_to(*at), error.detail) from None
        tensors[name] = encoded.to(TORCH_DTYPES[loaded.fields[name].dtype])
    return tensors


def _needed(loaded: LoadedVersion, tasks: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(field for name in tasks for field in loaded.classifier.tasks[name].fields))


def _tensors(
    loaded: LoadedVersion, tasks: Sequence[str], inputs: Mapping[str, list[Any]]
) -> dict[str, torch.Tensor]:
    faults = [
        Fault("/inputs", f"field '{field}' is required")
        for field in _needed(loaded, tasks)
        if field not in inputs
    ]
    faults += [
        Fault(pointer_to("inputs", field), f"the model reads no such field; it reads {sorted(loaded.fields)}")
        for field in inputs
        if field not in loaded.fields
    ]
    tensors: dict[str, torch.Tensor] = {}
    for field, values in inputs.items():
        if field not in loaded.fields:
            continue
        pointer, known = pointer_to("inputs", field), loaded.fields[field]
        tensor = tensor_from_json(values, pointer)
        if known.shape is not None and list(tensor.shape[1:]) != known.shape:
            faults.append(
                Fault(
                    pointer,
                    f"a row has shape {list(tensor.shape[1:])}; the model was trained on {known.shape}",
                )
            )
            continue
        tensors[field] = as_dtype(tensor, known.dtype, pointer)
    lengths = {field: len(tensor) for field, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        faults.append(Fault("/inputs", f"fields have different numbers of rows: {lengths}"))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    return tensors


def _answer(
    loaded: LoadedVersion,
    task: str,
    parts: Sequence[dict[str, torch.Tensor]],
    returns: Sequence[ReturnKind],
) -> dict[str, Any]:
    has_classes = loaded.classifier.tasks[task].output_func.has_classes
    names = loaded.preprocessing.class_names.get(task) if has_classes else None
    answer: dict[str, Any] = {}
    for kind in returns:
        if kind == "classes":
            if names is not None:
                preds = torch.cat([part["preds"] for part in parts]).numpy()
                answer["classes"] = np.array(names, dtype=object)[preds].tolist()
            continue
        values = torch.cat([part[kind] for part in parts]).numpy()
        answer["outputs" if kind == "probs" and not has_classes else kind] = values
        if not np.isfinite(values).all():
            answer["reason"] = "what is null came out as no finite number"
    if names is not None:
        answer["class_names"] = names
    return answer
