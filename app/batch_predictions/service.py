"""The rules for predictions of whole tables: every check that can be made before a worker takes them up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from sqlalchemy.orm import Session

from app.batch_predictions.schemas import BatchIn
from app.datasets import service as datasets
from app.datasets.parts import Part, take_rows
from app.db.tables import Model, Run, Version
from app.models import service as models
from app.predictions.loaded import shapes_of
from app.predictions.question import Question
from app.predictions.rows import encode_fields
from app.problems import Invalid, NotFound
from app.runs.initial import whole_version
from app.runs.job import Job, RowsRef
from app.runs.preprocessing import load_preprocessing
from app.runs.service import enqueue_with
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from app.storage.tables import Table
from app.uploads import service as uploads
from mtl_core import MultitaskClassifier, TaskPaths
from mtl_core.building.fields import FieldShapes
from mtl_core.building.tasks import build_tasks
from mtl_core.errors import Fault, TaskloomError, pointer_to, suggestion
from mtl_core.preprocessing import ColumnError, FittedField
from mtl_core.specs import TaskSpec

ROW, SPLIT, PREDICTIONS = "row", "split", "predictions"
"""What a result calls a row's number in its table or split, its split, and in JSON what was predicted of it."""

_TRIED_ROWS = 16


def enqueue_prediction(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    model: Model,
    request: BatchIn,
    client: str,
) -> Run:
    """Accept a prediction of many rows.

    The first rows are encoded at once, so that columns of the wrong kind are refused now.

    Raises:
        NotFound: If the model has no such version.
        Invalid: If the data is unknown, lacks a column or has values that do not suit the version, or the version has
            no such task or operation.
    """
    version = models.find_version(session, model, request.version)
    specs = {spec.name: spec for spec in map(TaskSpec.model_validate, version.tasks)}
    fields = _fields_of(store, version, specs, question_of(request))
    rows = list(_rows_of(session, request))
    for ref in rows:
        _check_columns(store, ref, fields, request.keep, specs)
        _try_out(store, encoders, ref, fields, shapes_of(version))
    job = Job(rows=rows, preprocessing=version.preprocessing or "", weights=[whole_version(version)])
    asked = request.model_dump(mode="json", by_alias=True)
    return enqueue_with(session, "predict", version, asked, job, client=client)


def request_of(run: Run) -> BatchIn:
    """Return what was asked for."""
    return BatchIn.model_validate(run.request)


def question_of(request: BatchIn) -> Question:
    """Return what is asked of each row."""
    tasks = None if request.tasks is None else tuple(request.tasks)
    return Question(tasks, tuple(request.returns), request.version)


def _fields_of(
    store: ArtifactStore, version: Version, specs: Mapping[str, TaskSpec], question: Question
) -> dict[str, FittedField]:
    """Return how the fields are made that the question needs."""
    models.check_tasks_of(version, question.tasks)
    tasks = list(specs) if question.tasks is None else list(dict.fromkeys(question.tasks))
    # On the meta device a network takes no memory, and has the same paths.
    with torch.device("meta"):
        network = MultitaskClassifier(build_tasks(specs.values()), name=version.model, device="meta").eval()
    try:
        TaskPaths(network, tasks, question.kinds, question.operations)
    except TaskloomError as error:
        raise Invalid.at("/return", str(error)) from None
    known = load_preprocessing(store, version.preprocessing).fields
    needed = dict.fromkeys(field for name in tasks for field in network.tasks[name].fields)
    for name in needed:
        if name not in known:
            raise Invalid.at(
                "/version",
                f"version {version.number} was not trained on columns for field '{name}': predict its rows one by one",
            )
    return {name: known[name] for name in needed}


def _rows_of(session: Session, request: BatchIn) -> Iterator[RowsRef]:
    if request.upload is not None:
        try:
            upload = uploads.named(session, request.upload)
        except NotFound as error:
            raise Invalid.at("/upload", error.detail) from None
        part = Part(table=upload.table, assignment=None, number=0, rows=upload.rows, summary="")
        yield RowsRef(upload=upload.id, sha256=upload.sha256, rows=upload.rows, parts=[part])
        return
    name, _, number = (request.dataset or "").partition("@")
    try:
        version = datasets.get(session, name, int(number) if number else None)
    except NotFound as error:
        raise Invalid.at("/dataset", error.detail) from None
    try:
        splits = version.splits if request.split is None else [datasets.get_split(version, request.split)]
    except NotFound as error:
        raise Invalid.at("/split", error.detail) from None
    for split in splits:
        yield RowsRef(
            dataset=name,
            version=version.number,
            split=split.name,
            sha256=split.sha256,
            rows=split.rows,
            parts=datasets.parts_of(split),
        )


def _check_columns(
    store: ArtifactStore,
    ref: RowsRef,
    fields: Mapping[str, FittedField],
    keep: Sequence[str],
    tasks: Collection[str],
) -> None:
    """Refuse data that lacks a column, or whose columns would be called as others of the result."""
    at = "/upload" if ref.upload else "/dataset"
    for part in ref.parts:
        there = Table(store.path(part.table, verify=False)).schema.names
        faults = [
            Fault(
                at,
                f"{ref.named()} has no column '{column}', which field '{name}' is made of: {suggestion(column, there)}",
            )
            for name, field in fields.items()
            for column in field.column_names
            if column not in there
        ]
        for i, column in enumerate(keep):
            pointer = pointer_to("keep", i)
            if column not in there:
                faults.append(
                    Fault(pointer, f"{ref.named()} has no column '{column}': {suggestion(column, there)}")
                )
            elif column in (ROW, SPLIT, PREDICTIONS, *keep[:i]) or column.partition(".")[0] in tasks:
                faults.append(Fault(pointer, f"the result has another column '{column}'"))
        if faults:
            raise Invalid(faults[0].detail, faults)


def _try_out(
    store: ArtifactStore,
    encoders: SentenceEncoders,
    ref: RowsRef,
    fields: Mapping[str, FittedField],
    shapes: FieldShapes,
) -> None:
    """Encode the first rows."""
    columns = list(dict.fromkeys(column for field in fields.values() for column in field.column_names))
    table = take_rows(store, ref.parts, columns, 0, _TRIED_ROWS)
    raw = {name: table.column(name).combine_chunks() for name in columns}
    try:
        encode_fields(fields, raw, encoders, shapes)
    except ColumnError as error:
        at = "/upload" if ref.upload else "/dataset"
        raise Invalid.at(at, f"{ref.named(error.row)}, column '{error.column}': {error.detail}") from None
