"""The rules for datasets: splits are immutable, of one shape, and kept while a run that is not over uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets import tensors
from app.datasets.schemas import SplitIn
from app.db.tables import Dataset, Run, Split
from app.problems import Conflict, Invalid, missing
from app.storage.artifacts import ArtifactStore
from mtl_core.data import UNLABELLED, XDict, YDict, is_labelled
from mtl_core.errors import Fault, pointer_to

_MAX_CLASSES = 1000


def add_split(session: Session, store: ArtifactStore, body: SplitIn) -> tuple[Dataset, bool]:
    """Store a split, and its dataset if that is new.

    Returns:
        The dataset, and whether the split is new: the same content again finds the first.

    Raises:
        Invalid: If values are no numbers, lengths differ, or a field's shape is another than in the other splits.
        Conflict: If the split exists with other content.
    """
    X_dict = {
        name: tensors.tensor_from_json(values, pointer_to("X_dict", name))
        for name, values in body.X_dict.items()
    }
    Y_dict = {
        name: tensors.labels_from_json(values, pointer_to("Y_dict", name))
        for name, values in body.Y_dict.items()
    }
    rows = _check_lengths(X_dict, Y_dict)
    stored = tensors.store_split(store, X_dict, Y_dict)

    dataset = session.get(Dataset, body.name)
    if dataset is None:
        dataset = Dataset(name=body.name, splits=[])
        session.add(dataset)
    fields = {
        name: {"dtype": tensors.dtype_name(tensor), "shape": list(tensor.shape[1:])}
        for name, tensor in X_dict.items()
    }
    for other in dataset.splits:
        if other.name == body.split:
            if other.sha256 != stored.sha256:
                raise Conflict(f"split '{body.split}' of dataset '{body.name}' exists with other content")
            return dataset, False
        _check_shapes(fields, other)
    labels = {name: _describe(tensor) for name, tensor in Y_dict.items()}
    split = Split(
        name=body.split, rows=rows, fields=fields, labels=labels, sha256=stored.sha256, bytes=stored.bytes
    )
    dataset.splits.append(split)
    session.flush()
    return dataset, True


def get(session: Session, name: str) -> Dataset:
    """Return a dataset.

    Raises:
        NotFound: If there is none of that name.
    """
    dataset = session.get(Dataset, name)
    if dataset is None:
        raise missing("dataset", name)
    return dataset


def get_split(dataset: Dataset, split: str) -> Split:
    """Return a split of a dataset.

    Raises:
        NotFound: If the dataset has none of that name.
    """
    for row in dataset.splits:
        if row.name == split:
            return row
    raise missing("split", f"{dataset.name}/{split}")


def remove(session: Session, dataset: Dataset, split: str | None = None) -> None:
    """Remove a dataset, or one split of it; with the last split the dataset goes too.

    Raises:
        NotFound: If there is no such split.
        Conflict: If a run that is not over uses it.
    """
    going = dataset.splits if split is None else [get_split(dataset, split)]
    names = {row.name for row in going}
    active = session.scalars(select(Run).where(Run.finished_at.is_(None)))
    for run in active:
        if any(s["dataset"] == dataset.name and s["split"] in names for s in run.job["splits"]):
            raise Conflict(f"run '{run.id}', which is {run.status}, uses dataset '{dataset.name}'")
    if len(names) == len(dataset.splits):
        session.delete(dataset)
    else:
        dataset.splits.remove(going[0])


def _check_lengths(X_dict: XDict, Y_dict: YDict) -> int:
    named = [(pointer_to("X_dict", name), len(values)) for name, values in X_dict.items()]
    named += [(pointer_to("Y_dict", name), len(values)) for name, values in Y_dict.items()]
    (first, rows), *others = named
    faults = [
        Fault(where, f"{length} values where {first} has {rows}")
        for where, length in others
        if length != rows
    ]
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    return rows


def _check_shapes(fields: dict[str, Any], other: Split) -> None:
    for name, field in fields.items():
        known = other.fields.get(name)
        if known and known["shape"] != field["shape"]:
            raise Invalid.at(
                pointer_to("X_dict", name),
                f"one example has shape {field['shape']}, but {known['shape']} in split '{other.name}'",
            )


def _describe(labels: torch.Tensor) -> dict[str, Any]:
    """Return what a split's labels look like, with the counts and the range that classes have."""
    labelled = is_labelled(labels)
    description: dict[str, Any] = {
        "dtype": tensors.dtype_name(labels),
        "shape": list(labels.shape[1:]),
        "labelled": int(labelled.sum()),
        "counts": None,
        "min": None,
        "max": None,
    }
    if labels.is_floating_point():
        return description
    classes, counts = np.unique(labels[labels != UNLABELLED].numpy(), return_counts=True)
    if len(classes):
        description |= {"min": int(classes[0]), "max": int(classes[-1])}
    if len(classes) <= _MAX_CLASSES and labels.ndim == 1:
        description["counts"] = {str(value): int(count) for value, count in zip(classes, counts, strict=True)}
    return description
