"""HTTP of datasets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets import service
from app.datasets.ingest import Ingested, Source, ingest_inline, ingest_source
from app.datasets.schemas import (
    APPEND_EXAMPLES,
    REGISTER_EXAMPLES,
    AppendedIn,
    DatasetOut,
    DatasetSummary,
    InlineAppendIn,
    RegisterIn,
    RowsFrom,
    RowsOut,
    SplitIn,
    SplitOut,
)
from app.db.tables import Dataset, DatasetVersion, Split
from app.http.conditional import IfMatchDep
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import DatasetPath, Resources, ResourcesDep, SessionDep, SplitPath
from app.problems import Invalid, NotFound, problem_responses
from app.uploads import service as uploads
from mtl_core.errors import pointer_to

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=Endpoint)

VersionQuery = Annotated[
    int | None, Query(alias="version", ge=1, le=2**31 - 1, description="A version; default: the newest.")
]


@router.post(
    "",
    status_code=201,
    summary="Register a dataset, or a split of one",
    responses={200: {"model": DatasetOut, "description": "The same data exists already"}}
    | problem_responses(400, 409, 413, 415, 422),
)
def register_dataset(
    body: Annotated[RegisterIn, Body(openapi_examples=REGISTER_EXAMPLES)],
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
) -> DatasetOut:
    """Store the examples of one split, or make splits of the rows of an upload.

    A split that a dataset does not have yet makes a new version of it.
    """
    ingested = _ingest(resources, body.name, body)
    version, created = service.add(session, resources.store, resources.encoders, body.name, ingested)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/datasets/{body.name}"
    return _out(session, version)


@router.post(
    "/{dataset}/append",
    status_code=201,
    summary="Append rows",
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def append_rows(
    dataset: DatasetPath,
    body: Annotated[AppendedIn, Body(openapi_examples=APPEND_EXAMPLES)],
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
) -> DatasetOut:
    """Make a new version of the dataset that has further rows; what it has already is not copied."""
    with resources.db.read() as reading:
        service.get(reading, dataset)
    ingested = _ingest(resources, dataset, body)
    version = service.append(session, resources.store, resources.encoders, dataset, ingested)
    response.headers["Location"] = f"/v1/datasets/{dataset}?version={version.number}"
    return _out(session, version)


@router.get("", summary="List datasets", responses=problem_responses(422))
def list_datasets(session: SessionDep, paging: PagingDep) -> Page[DatasetSummary]:
    """List datasets by name, the newest version of each."""
    return paging.page(session, select(Dataset), Dataset.name, _summary)


@router.get("/{dataset}", summary="Read a dataset", responses=problem_responses(404, 422))
def get_dataset(dataset: DatasetPath, session: SessionDep, version: VersionQuery = None) -> DatasetOut:
    """Return a version's splits: fields, label counts, overlap of labels, and statistics of each column."""
    return _out(session, service.get(session, dataset, version))


@router.get("/{dataset}/{split}/rows", summary="Read examples", responses=problem_responses(404, 422))
def get_rows(
    dataset: DatasetPath,
    split: SplitPath,
    session: SessionDep,
    resources: ResourcesDep,
    offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    version: VersionQuery = None,
) -> RowsOut:
    """Return consecutive examples of a split, as they are stored: before any preprocessing."""
    row = service.get_split(service.get(session, dataset, version), split)
    first = min(offset, row.rows)
    X_dict, Y_dict = service.read_rows(resources.store, row, first, limit)
    return RowsOut(offset=first, rows=row.rows, X_dict=X_dict, Y_dict=Y_dict)


@router.delete(
    "/{dataset}",
    status_code=204,
    response_class=Response,
    summary="Remove a dataset",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_dataset(dataset: DatasetPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove a dataset with all its versions; models trained on it stay."""
    current = service.get(session, dataset)
    if_match.check(lambda: _out(session, current))
    service.remove(session, dataset)


@router.delete(
    "/{dataset}/{split}",
    status_code=204,
    response_class=Response,
    summary="Remove a split",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_split(dataset: DatasetPath, split: SplitPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Make a version without the split, which earlier versions keep; with its last split the dataset goes."""
    current = service.get(session, dataset)
    if_match.check(lambda: _out(session, current))
    service.remove(session, dataset, split)


def _ingest(resources: Resources, name: str, body: Any) -> Ingested:
    """Do all of the work that takes time: before the request's transaction begins."""
    if isinstance(body, SplitIn | InlineAppendIn):
        return ingest_inline(resources.store, body)
    with resources.db.read() as session:
        dataset = service.find(session, name)
        known = service.known_of(dataset.versions[-1]) if dataset else None
        sources = _sources(session, body)
    return ingest_source(resources.store, body, sources, known, resources.encoders)


def _sources(session: Session, body: RowsFrom) -> list[Source]:
    named = (
        [("/source/upload", body.split, body.source.upload)]
        if body.source.upload is not None
        else [
            (pointer_to("source", "splits", split), split, upload)
            for split, upload in (body.source.splits or {}).items()
        ]
    )
    sources: list[Source] = []
    for pointer, split, wanted in named:
        try:
            upload = uploads.named(session, wanted)
        except NotFound as error:
            raise Invalid.at(pointer, error.detail) from None
        name = upload.filename or f"upload '{upload.id}'"
        sources.append(Source(upload.table, upload.columns, upload.rows, name, pointer, split))
    return sources


def _out(session: Session, version: DatasetVersion) -> DatasetOut:
    dataset = session.get_one(Dataset, version.dataset)
    return DatasetOut(
        name=version.dataset,
        version=version.number,
        versions=[row.number for row in dataset.versions],
        parent=version.parent,
        sha256=version.sha256,
        splits=[_split_out(split) for split in version.splits],
        warnings=version.warnings,
        created_at=version.created_at,
    )


def _summary(dataset: Dataset) -> DatasetSummary:
    newest = dataset.versions[-1]
    return DatasetSummary(
        name=dataset.name,
        version=newest.number,
        splits={split.name: split.rows for split in newest.splits},
        created_at=dataset.created_at,
    )


def _split_out(split: Split) -> SplitOut:
    return SplitOut.model_validate(
        {
            "split": split.name,
            "rows": split.rows,
            "fields": split.fields,
            "labels": split.labels,
            "overlap": split.overlap,
            "weights": split.weights,
            "columns": split.columns,
            "sha256": split.sha256,
            "created_at": split.created_at,
        }
    )
