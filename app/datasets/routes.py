"""HTTP of datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from app.datasets import service, tensors
from app.datasets.schemas import DatasetOut, RowsOut, SplitIn, SplitOut
from app.db.tables import Dataset, Split
from app.http.conditional import IfMatchDep
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import DatasetPath, ResourcesDep, SessionDep, SplitPath
from app.problems import problem_responses

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=Endpoint)


@router.post(
    "",
    status_code=201,
    summary="Register a split of a dataset",
    responses={200: {"model": DatasetOut, "description": "The same split exists already"}}
    | problem_responses(400, 409, 413, 415, 422),
)
def register_split(
    body: SplitIn,
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
) -> DatasetOut:
    """Store fields and labels of one split; the dataset is made with its first split."""
    dataset, created = service.add_split(session, resources.store, body)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/datasets/{dataset.name}"
    return _out(dataset)


@router.get("", summary="List datasets", responses=problem_responses(422))
def list_datasets(session: SessionDep, paging: PagingDep) -> Page[DatasetOut]:
    """List datasets by name."""
    return paging.page(session, select(Dataset), Dataset.name, _out)


@router.get("/{dataset}", summary="Read a dataset", responses=problem_responses(404, 422))
def get_dataset(dataset: DatasetPath, session: SessionDep) -> DatasetOut:
    """Return a dataset's splits with their fields and label counts."""
    return _out(service.get(session, dataset))


@router.get("/{dataset}/{split}/rows", summary="Read examples", responses=problem_responses(404, 422))
def get_rows(
    dataset: DatasetPath,
    split: SplitPath,
    session: SessionDep,
    resources: ResourcesDep,
    offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> RowsOut:
    """Return consecutive examples of a split, as they are stored."""
    row = service.get_split(service.get(session, dataset), split)
    first = min(offset, row.rows)
    X_dict, Y_dict = tensors.load_split(resources.store, row.sha256, slice(first, first + limit))
    return RowsOut(
        offset=first,
        rows=row.rows,
        X_dict={name: values.tolist() for name, values in X_dict.items()},
        Y_dict={name: values.tolist() for name, values in Y_dict.items()},
    )


@router.delete(
    "/{dataset}",
    status_code=204,
    response_class=Response,
    summary="Remove a dataset",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_dataset(dataset: DatasetPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove a dataset with all its splits; versions trained on it stay."""
    row = service.get(session, dataset)
    if_match.check(lambda: _out(row))
    service.remove(session, row)


@router.delete(
    "/{dataset}/{split}",
    status_code=204,
    response_class=Response,
    summary="Remove a split",
    responses=problem_responses(404, 409, 412, 422),
)
def delete_split(dataset: DatasetPath, split: SplitPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove one split; the dataset goes with its last one."""
    row = service.get(session, dataset)
    if_match.check(lambda: _out(row))
    service.remove(session, row, split)


def _out(dataset: Dataset) -> DatasetOut:
    return DatasetOut(
        name=dataset.name,
        splits=[_split_out(split) for split in dataset.splits],
        created_at=dataset.created_at,
    )


def _split_out(split: Split) -> SplitOut:
    return SplitOut.model_validate(
        {
            "split": split.name,
            "rows": split.rows,
            "fields": split.fields,
            "labels": split.labels,
            "sha256": split.sha256,
            "bytes": split.bytes,
            "created_at": split.created_at,
        }
    )
