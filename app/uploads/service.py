"""The rules for uploads: a file is read once, into a table, before anything of it is kept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from ulid import ULID

from app.db.session import Database
from app.db.tables import Upload
from app.problems import Invalid, missing
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.tables import Table
from app.uploads.faults import UnreadableError
from app.uploads.options import Limits, Options
from app.uploads.records import Record, to_records
from app.uploads.sandbox import Reading, read_apart
from app.uploads.schemas import SourceIn
from app.uploads.sources import fetch

_LEAST_EXPANDED = 256 * 2**20
# Of one answer: beyond it, fewer rows are answered than were asked for.
_MAX_NUMBERS = 2_000_000

_TEXT_SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".data"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
}
_COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
_MEDIA_TYPES = {
    **dict.fromkeys(("text/csv", "application/csv", "text/tab-separated-values"), "csv"),
    **dict.fromkeys(
        ("application/jsonl", "application/jsonlines", "application/x-jsonlines", "application/x-ndjson"),
        "jsonl",
    ),
}


@dataclass(frozen=True)
class Incoming:
    """A file that is to be an upload.

    Attributes:
        path: Where it lies.
        folder: Where files on the way may lie: a scratch folder of the store.
        filename: Its name.
        sha256: Of its bytes.
        bytes: How many.
        options: How to read it.
        pointer: What of the request stands for it.
    """

    path: Path
    folder: Path
    filename: str | None
    sha256: str
    bytes: int
    options: Options
    pointer: str = ""


def text_format(filename: str | None, media_type: str = "") -> str | None:
    """Return the text format that a media type, or else a file's name, suggests."""
    name = Path(filename or "")
    if name.suffix.lower() in _COMPRESSED_SUFFIXES:
        name = name.with_suffix("")
    return _MEDIA_TYPES.get(media_type) or _TEXT_SUFFIXES.get(name.suffix.lower())


def from_source(
    db: Database, store: ArtifactStore, settings: Settings, folder: Path, body: SourceIn
) -> Incoming:
    """Return the file that a client only names, copied into a scratch folder where it is not in the store.

    Raises:
        NotFound: If there is no such upload.
        Invalid: If there is no such file, or it may not be read.
    """
    if body.upload is not None:
        with db.read() as session:
            row = named(session, body.upload)
        options = body.options(text_format(row.filename))
        path = store.path(row.sha256)
        return Incoming(path, folder, row.filename, row.sha256, row.bytes, options, "/upload")
    path = folder / "body"
    filename = fetch(body.url or "", settings.upload_sources, path, settings.max_upload_bytes)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    options = body.options(text_format(filename))
    return Incoming(path, folder, filename, sha256, path.stat().st_size, options, "/url")


def add(
    session: Session, db: Database, store: ArtifactStore, settings: Settings, incoming: Incoming
) -> tuple[Upload, bool]:
    """Read a file and keep it.

    The session's transaction begins when the file has been read: until then, nobody waits for it.

    Returns:
        The upload, and whether it is new: the same file with the same options again finds the first.

    Raises:
        Invalid: If the file cannot be read.
    """
    key = hashlib.sha256(orjson.dumps(asdict(incoming.options), option=orjson.OPT_SORT_KEYS)).hexdigest()
    with db.read() as reading:
        is_known = _find(reading, incoming.sha256, key) is not None
    if is_known and (known := _find(session, incoming.sha256, key)):
        return known, False
    table = incoming.folder / "table"
    found = _read(incoming, table, settings)
    if incoming.path.is_relative_to(incoming.folder):
        store.put_file(incoming.path)
    upload = Upload(
        id=f"upl_{ULID()}",
        filename=incoming.filename,
        sha256=incoming.sha256,
        bytes=incoming.bytes,
        options=asdict(incoming.options),
        options_key=key,
        table=store.put_file(table).sha256,
        **asdict(found),
    )
    try:
        with session.begin_nested():
            session.add(upload)
    except IntegrityError:
        # Another request read the same file meanwhile. Where its upload is gone again, so is this one.
        if known := _find(session, incoming.sha256, key):
            return known, False
        raise
    return upload, True


def get(session: Session, upload: str) -> Upload:
    """Return an upload.

    Raises:
        NotFound: If there is none of that id.
    """
    row = session.get(Upload, upload)
    if row is None:
        raise missing("upload", upload)
    return row


def named(session: Session, wanted: str) -> Upload:
    """Return an upload by its id, or else the newest that has a filename.

    Raises:
        NotFound: If there is none.
    """
    by_name = select(Upload).where(Upload.filename == wanted).order_by(Upload.id.desc()).limit(1)
    row = session.get(Upload, wanted) or session.scalar(by_name)
    if row is None:
        raise missing("upload", wanted)
    return row


def records(store: ArtifactStore, upload: Upload, offset: int, limit: int) -> list[Record]:
    """Return some consecutive rows of an upload's table."""
    table = Table(store.path(upload.table, verify=False))
    numbers = sum(math.prod(column["shape"]) for column in upload.columns)
    stop = min(upload.rows, offset + min(limit, max(1, _MAX_NUMBERS // numbers)))
    rows = np.arange(min(offset, stop), stop, dtype=np.int64)
    names: list[str] = [column["name"] for column in upload.columns]
    return to_records(table.take(rows, names))


def _find(session: Session, sha256: str, options_key: str) -> Upload | None:
    return session.scalar(select(Upload).where(Upload.sha256 == sha256, Upload.options_key == options_key))


def _read(incoming: Incoming, table: Path, settings: Settings) -> Reading:
    limits = Limits(
        max_columns=settings.max_columns,
        max_bytes=max(_LEAST_EXPANDED, settings.max_expansion * incoming.bytes),
        memory_bytes=settings.reading_memory_bytes,
        seconds=settings.reading_seconds,
    )
    try:
        return read_apart(incoming.path, table, incoming.folder, incoming.options, limits)
    except UnreadableError as error:
        raise _problem(incoming, error) from None


def _problem(incoming: Incoming, error: UnreadableError) -> Invalid:
    where = f"file '{incoming.filename}'" if incoming.filename else "the file"
    fault: dict[str, Any] = {"pointer": incoming.pointer, "detail": error.detail}
    if error.row is not None:
        where += f", line {error.row:,}"
        fault["row"] = error.row
    if error.column is not None:
        where += f", column {error.column!r}"
        fault["column"] = error.column
    return Invalid(f"{where}: {error.detail}", [fault])
