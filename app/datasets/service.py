"""The rules for datasets: versions never change, splits are of one shape, and stay while a run uses them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.ingest import Ingested, Known, NewSplit
from app.datasets.meaning import Meaning
from app.datasets.parts import Part, PartSummary, load_summary, merge_parts, take_rows
from app.datasets.splitting import Splitting
from app.db.tables import Dataset, DatasetVersion, Run, Split
from app.problems import Conflict, Invalid, missing
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core.errors import pointer_to
from mtl_core.preprocessing import FieldPlan, FittedField, FittedLabel, LabelSpec, fit_field

TRAIN = "train"
"""The split that a field's shape is told from where there is one of that name."""


def find(session: Session, name: str) -> Dataset | None:
    """Return a dataset, or None."""
    return session.get(Dataset, name)


def get(session: Session, name: str, version: int | None = None) -> DatasetVersion:
    """Return a dataset's version; default: the newest.

    Raises:
        NotFound: If there is none.
    """
    dataset = find(session, name)
    if dataset is None:
        raise missing("dataset", name)
    if version is None:
        return dataset.versions[-1]
    for row in dataset.versions:
        if row.number == version:
            return row
    raise missing("dataset version", f"{name}@{version}")


def get_split(version: DatasetVersion, split: str) -> Split:
    """Return a split of a dataset's version.

    Raises:
        NotFound: If it has none of that name.
    """
    for row in version.splits:
        if row.name == split:
            return row
    raise missing("split", f"{version.dataset}/{split}")


def known_of(version: DatasetVersion) -> Known:
    """Return what the columns of a dataset mean, for rows that are added to it."""
    first = version.splits[0]
    fields = {field: FieldPlan(columns=known["columns"]) for field, known in first.fields.items()}
    labels = {task: FittedLabel.model_validate(label["codec"]) for task, label in first.labels.items()}
    specs = {task: LabelSpec.model_validate(label["spec"]) for task, label in first.labels.items()}
    weights = first.weights["column"] if first.weights else None
    splitting = Splitting.model_validate(version.splitting) if version.splitting else None
    return Known(Meaning(fields=fields, labels=specs, weights=weights), labels, splitting)


def add(
    session: Session, store: ArtifactStore, encoders: SentenceEncoders, name: str, ingested: Ingested
) -> tuple[DatasetVersion, bool]:
    """Give a dataset new splits, or make it of them.

    Returns:
        The newest version, and whether it is new: the same splits again are found.

    Raises:
        Conflict: If a split exists with other content.
        Invalid: If a field is made of other columns, or of arrays of another shape, than in the other splits.
    """
    dataset = session.get(Dataset, name, with_for_update=True)
    if dataset is None:
        dataset = Dataset(name=name, versions=[])
        session.add(dataset)
    before = {split.name: split for split in dataset.versions[-1].splits} if dataset.versions else {}
    taken = [new for new in ingested.splits if new.name in before]
    for new in taken:
        if not _is_same(new, before[new.name]):
            raise Conflict(
                f"split '{new.name}' of dataset '{name}' exists with other content: append to it, or take another name"
            )
    if len(taken) == len(ingested.splits):
        return dataset.versions[-1], False
    fresh = [new for new in ingested.splits if new.name not in before]
    return _next_version(session, store, encoders, dataset, fresh, ingested), True


def append(
    session: Session, store: ArtifactStore, encoders: SentenceEncoders, name: str, ingested: Ingested
) -> DatasetVersion:
    """Add rows to a dataset's splits, and splits that it does not have; what is there is not copied.

    Raises:
        NotFound: If there is no such dataset.
        Invalid: If a field is made of other columns, or of arrays of another shape, than in the other splits.
    """
    dataset = session.get(Dataset, name, with_for_update=True)
    if dataset is None:
        raise missing("dataset", name)
    return _next_version(session, store, encoders, dataset, ingested.splits, ingested)


def _next_version(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    dataset: Dataset,
    added: Sequence[NewSplit],
    ingested: Ingested,
) -> DatasetVersion:
    current = dataset.versions[-1] if dataset.versions else None
    by_name = {split.name: _kept(split) for split in current.splits} if current else {}
    for new in added:
        for split in by_name.values():
            _check_alike(new, split)
    for new in added:
        if new.name not in by_name:
            by_name[new.name] = Split(name=new.name, parts=[])
        _add_part(store, by_name[new.name], new)
    _tell_shapes(store, encoders, list(by_name.values()))
    splitting = ingested.splitting.model_dump() if ingested.splitting else None
    return _append_version(
        session,
        dataset,
        list(by_name.values()),
        splitting or (current.splitting if current else None),
        ingested.warnings,
    )


def _append_version(
    session: Session, dataset: Dataset, splits: list[Split], splitting: Any, warnings: list[str]
) -> DatasetVersion:
    for position, split in enumerate(splits):
        split.position = position
    parent = dataset.versions[-1].number if dataset.versions else None
    version = DatasetVersion(
        number=(parent or 0) + 1,
        parent=parent,
        splitting=splitting,
        sha256=_checksum(*(f"{split.name} {split.sha256} {_json(_meaning_json(split))}" for split in splits)),
        warnings=warnings,
        splits=splits,
    )
    dataset.versions.append(version)
    session.flush()
    return version


def remove(session: Session, name: str, split: str | None = None) -> None:
    """Remove a dataset, or take a split off its next version; with the last split the dataset goes.

    Raises:
        NotFound: If there is no such dataset or split.
        Conflict: If a run that is not over uses it.
    """
    current = get(session, name)
    if split is not None:
        get_split(current, split)
    active = session.scalars(select(Run).where(Run.finished_at.is_(None)))
    for run in active:
        if any(s["dataset"] == name and split in (None, s["split"]) for s in run.job["splits"]):
            raise Conflict(f"run '{run.id}', which is {run.status}, uses dataset '{name}'")
    dataset = session.get_one(Dataset, name)
    if split is None or len(current.splits) == 1:
        session.delete(dataset)
        return
    kept = [_kept(row) for row in current.splits if row.name != split]
    _append_version(session, dataset, kept, current.splitting, current.warnings)


def parts_of(split: Split) -> list[Part]:
    """Return a split's rows."""
    return [Part.model_validate(part) for part in split.parts]


def read_rows(
    store: ArtifactStore, split: Split, offset: int, limit: int
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return consecutive rows of a split as JSON values: columns as they are stored, and labels as trained on."""
    columns = [column["name"] for known in split.fields.values() for column in known["columns"]]
    columns = list(dict.fromkeys(columns))
    codecs = {task: FittedLabel.model_validate(label["codec"]) for task, label in split.labels.items()}
    needed = list(dict.fromkeys([*columns, *(codec.column for codec in codecs.values())]))
    table = take_rows(store, parts_of(split), needed, offset, limit).combine_chunks()
    return (
        {column: _json_values(table.column(column)) for column in columns},
        {task: codec.encode(table.column(codec.column)).tolist() for task, codec in codecs.items()},
    )


def _json_values(column: pa.ChunkedArray) -> list[Any]:
    if isinstance(column.type, pa.FixedShapeTensorType):
        array = column.combine_chunks()
        return array.to_numpy_ndarray().tolist() if len(array) else []
    return column.to_pylist()


def _kept(split: Split) -> Split:
    """Return a copy of a split for the next version; the data is the same files."""
    names = (
        "name",
        "position",
        "rows",
        "fields",
        "labels",
        "weights",
        "columns",
        "overlap",
        "parts",
        "sha256",
    )
    return Split(**{name: getattr(split, name) for name in (*names, "created_at")})


def _is_same(new: NewSplit, split: Split) -> bool:
    fields = {field: plan.model_dump(mode="json")["columns"] for field, plan in new.meaning.fields.items()}
    labels = {task: label.model_dump(mode="json") for task, label in new.labels.items()}
    means = [fields, labels, {"column": new.meaning.weights} if new.meaning.weights else None]
    return split.sha256 == _checksum_of([new.part]) and _json(means) == _json(_meaning_json(split))


def _check_alike(new: NewSplit, split: Split) -> None:
    for field, plan in new.meaning.fields.items():
        known = split.fields.get(field)
        if known is None:
            continue
        if FieldPlan(columns=known["columns"]) != plan:
            raise Invalid.at(
                pointer_to("fields", field),
                f"field '{field}' is made otherwise in split '{split.name}': leave fields out to use the same",
            )
        if plan.columns[0].type != "tensor":
            continue
        shape = fit_field(plan, new.summary.fields[field]).shape
        if shape != known["shape"]:
            raise Invalid.at(
                pointer_to("X_dict", field),
                f"one example has shape {shape}, but {known['shape']} in split '{split.name}'",
            )


def _add_part(store: ArtifactStore, split: Split, new: NewSplit) -> None:
    summary = new.summary
    if split.parts:
        _check_same_columns(split, new)
        summary = merge_parts([load_summary(store, parts_of(split)), summary])
    split.parts = [*split.parts, new.part.model_dump()]
    split.rows = sum(part["rows"] for part in split.parts)
    split.sha256 = _checksum_of(parts_of(split))
    split.fields = {field: plan.model_dump(mode="json") for field, plan in new.meaning.fields.items()}
    split.weights = {"column": new.meaning.weights} if new.meaning.weights else None
    split.labels = {task: _label_json(task, new, summary) for task in new.labels}
    split.columns = {
        column: found.statistics() for columns in summary.fields.values() for column, found in columns.items()
    }
    split.overlap = [{"tasks": [one, other], "rows": rows} for one, other, rows in summary.overlap]


def _check_same_columns(split: Split, new: NewSplit) -> None:
    for kind, known, added in (
        ("fields", split.fields, new.meaning.fields),
        ("labels", split.labels, new.meaning.labels),
    ):
        if set(known) != set(added):
            raise Invalid.at(
                "",
                f"split '{split.name}' has the {kind} {sorted(known)}, and what is appended {sorted(added)}",
            )


def _label_json(task: str, new: NewSplit, summary: PartSummary) -> dict[str, Any]:
    label, found = new.labels[task], summary.labels[task]
    kind = new.schema.field(label.column).type
    shape = list(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else []
    counts = None
    if found.counts is not None and not shape:
        names = label.class_names
        counts = {_key(names[code] if names else code): n for code, n in found.counts.items()}
    return {
        "spec": new.meaning.labels[task].model_dump(mode="json"),
        "codec": label.model_dump(mode="json"),
        "column": label.column,
        "dtype": "float32" if label.type == "number" else "int64",
        "shape": shape,
        "class_names": label.class_names,
        "labelled": found.labelled,
        "counts": counts,
        "lowest": found.lowest,
        "highest": found.highest,
    }


def _key(name: object) -> str:
    return str(name).lower() if isinstance(name, bool) else str(name)


def _tell_shapes(store: ArtifactStore, encoders: SentenceEncoders, splits: Sequence[Split]) -> None:
    """Say what one example of each field looks like, fitted to the train split where there is one."""
    train = next((split for split in splits if split.name == TRAIN), None)
    fitted: dict[str, FittedField] = {}
    if train is not None:
        fitted = _fitted(train.fields, load_summary(store, parts_of(train)), encoders)
    for split in splits:
        own: Mapping[str, FittedField] = {}
        if set(split.fields) - set(fitted):
            own = _fitted(split.fields, load_summary(store, parts_of(split)), encoders)
        split.fields = {
            field: {
                "columns": known["columns"],
                "dtype": (found := fitted.get(field) or own[field]).dtype,
                "shape": found.shape,
                "vocabulary": found.vocabulary,
            }
            for field, known in split.fields.items()
        }


def _fitted(
    fields: Mapping[str, Any], summary: PartSummary, encoders: SentenceEncoders
) -> dict[str, FittedField]:
    plans = {field: FieldPlan(columns=known["columns"]) for field, known in fields.items()}
    return {
        field: fit_field(plan, summary.fields[field], encoders.infos_for(plan.encoders))
        for field, plan in plans.items()
    }


def _meaning_json(split: Split) -> Any:
    labels = {task: label["codec"] for task, label in split.labels.items()}
    fields = {field: known["columns"] for field, known in split.fields.items()}
    return [fields, labels, split.weights]


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _checksum_of(parts: Sequence[Part]) -> str:
    return _checksum(*(f"{part.table} {part.assignment} {part.number} {part.rows}" for part in parts))


def _checksum(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
