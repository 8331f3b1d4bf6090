"""HTTP of uploads."""

from __future__ import annotations

from email.message import Message
from pathlib import PurePosixPath
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.openapi.models import Example
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Upload
from app.http.conditional import IfMatchDep
from app.http.endpoint import Endpoint, FileEndpoint
from app.http.pages import Page, PagingDep
from app.http.receiving import ReceivedFile
from app.http.resources import Resources, ResourcesDep, SessionDep
from app.problems import problem_responses
from app.uploads import service
from app.uploads.schemas import RecordsOut, SourceIn, UploadOut, UploadQuery

router = APIRouter()
_files = APIRouter(prefix="/uploads", tags=["uploads"], route_class=FileEndpoint)
_uploads = APIRouter(prefix="/uploads", tags=["uploads"], route_class=Endpoint)

_EXAMPLE = """age,education,income
38,Bachelors,high
52,Doctorate,high
19,School,low
44,School,low
61,Bachelors,high
23,Bachelors,low
35,Doctorate,high
28,School,low
57,School,high
31,Bachelors,
"""
_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "required": True,
    "description": "The file's bytes, of any media type but `multipart/…`.",
    "content": {
        "application/octet-stream": _FILE | {"example": _EXAMPLE},
        "text/csv": _FILE | {"example": _EXAMPLE},
    },
}

UploadPath = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_]{1,40}$",
        description="As `POST /v1/uploads` answered it.",
        openapi_examples={"upload": Example(value="upl_01KD8Z6Y0000000000000000AB")},
    ),
]


@_files.post(
    "",
    status_code=201,
    summary="Upload a file",
    openapi_extra={"requestBody": _BODY},
    responses={200: {"model": UploadOut, "description": "The same file, read the same way, is here already"}}
    | problem_responses(400, 413, 415, 422),
)
async def upload_file(
    request: Request,
    query: Annotated[UploadQuery, Query()],
    resources: ResourcesDep,
    session: SessionDep,
    response: Response,
    content_disposition: Annotated[str | None, Header(description="May carry the file's name.")] = None,
    content_digest: Annotated[
        str | None, Header(description="`sha-256=:…:` (RFC 9530), which the file is then held against.")
    ] = None,
) -> UploadOut:
    """Store a file and read it: CSV, JSON Lines, Parquet, Arrow IPC, NPZ or safetensors, and describe its columns."""
    del content_digest  # checked while the body came
    received: ReceivedFile = request.state.received
    filename = query.filename or _name_in(content_disposition)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    incoming = service.Incoming(
        path=received.path,
        folder=received.path.parent,
        filename=filename,
        sha256=received.sha256,
        bytes=received.bytes,
        options=query.options(service.text_format(filename, media_type)),
    )

    def add() -> UploadOut:
        return _added(session, resources, response, incoming)

    return await to_thread.run_sync(add, limiter=request.app.state.reading_slots)


@_uploads.post(
    "/from",
    status_code=201,
    summary="Read a file that is there already",
    responses={200: {"model": UploadOut, "description": "The same file, read the same way, is here already"}}
    | problem_responses(400, 404, 413, 415, 422),
)
async def upload_from(
    request: Request, body: SourceIn, resources: ResourcesDep, session: SessionDep, response: Response
) -> UploadOut:
    """Read a file from where the server's operator allows, or read an earlier upload again, otherwise."""

    def add() -> UploadOut:
        with resources.store.scratch() as folder:
            incoming = service.from_source(resources.db, resources.store, resources.settings, folder, body)
            return _added(session, resources, response, incoming)

    return await to_thread.run_sync(add, limiter=request.app.state.reading_slots)


@_uploads.get("", summary="List uploads", responses=problem_responses(422))
def list_uploads(session: SessionDep, paging: PagingDep) -> Page[UploadOut]:
    """List uploads, newest first."""
    return paging.page(session, select(Upload), Upload.id, _out, newest_first=True)


@_uploads.get("/{upload}", summary="Read an upload", responses=problem_responses(404, 422))
def get_upload(upload: UploadPath, session: SessionDep) -> UploadOut:
    """Return what was read in a file: its columns, their types, missing and distinct values, the first rows."""
    return _out(service.get(session, upload))


@_uploads.get("/{upload}/rows", summary="Read rows", responses=problem_responses(404, 422))
def get_upload_rows(
    upload: UploadPath,
    session: SessionDep,
    resources: ResourcesDep,
    offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[
        int, Query(ge=1, le=1000, description="Most rows to answer; fewer where they are large.")
    ] = 100,
) -> RecordsOut:
    """Return consecutive rows of a file as records."""
    row = service.get(session, upload)
    first = min(offset, row.rows)
    records = service.records(resources.store, row, first, limit)
    return RecordsOut(offset=first, rows=row.rows, records=records)


@_uploads.delete(
    "/{upload}",
    status_code=204,
    response_class=Response,
    summary="Remove an upload",
    responses=problem_responses(404, 412, 422),
)
def delete_upload(upload: UploadPath, session: SessionDep, if_match: IfMatchDep) -> None:
    """Remove an upload; datasets that were made of it keep their rows."""
    row = service.get(session, upload)
    if_match.check(lambda: _out(row))
    session.delete(row)


router.include_router(_files)
router.include_router(_uploads)


def _added(
    session: Session, resources: Resources, response: Response, incoming: service.Incoming
) -> UploadOut:
    row, created = service.add(session, resources.db, resources.store, resources.settings, incoming)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return _out(row)


def _out(row: Upload) -> UploadOut:
    return UploadOut.model_validate(
        {
            "id": row.id,
            "filename": row.filename,
            "sha256": row.sha256,
            "bytes": row.bytes,
            "format": row.read_as["format"],
            "read_as": row.read_as,
            "rows": row.rows,
            "columns": row.columns,
            "preview": row.preview,
            "warnings": row.warnings,
            "created_at": row.created_at,
        }
    )


def _name_in(content_disposition: str | None) -> str | None:
    if content_disposition is None:
        return None
    message = Message()
    message["Content-Disposition"] = content_disposition
    # Some clients send a path.
    name = PurePosixPath((message.get_filename() or "").replace("\\", "/")).name[:255]
    return name if name and name.isprintable() else None
