"""Compressed files, recognised by their first bytes and unpacked as a stream."""

from __future__ import annotations

import contextlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from app.uploads.faults import UnreadableError

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_BUFFER = 2**20
_BROKEN = (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


def compression_of(head: bytes) -> str:
    """Return how a file that begins with ``head`` is compressed."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


@contextlib.contextmanager
def unpacked(path: Path, compression: str) -> Generator[BinaryIO]:
    """Open a file's unpacked bytes.

    Raises:
        UnreadableError: Also while the block reads: if the compressed data are damaged or break off.
    """
    try:
        with contextlib.ExitStack() as stack:
            yield _open(path, compression, stack)
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableError(f"the {compression} data are damaged or break off: {error}") from None


def _open(path: Path, compression: str, stack: contextlib.ExitStack) -> BinaryIO:
    match compression:
        case "none":
            return stack.enter_context(path.open("rb"))
        case "xz":
            return cast("BinaryIO", stack.enter_context(lzma.open(path, "rb")))
        case "zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            try:
                return cast("BinaryIO", stack.enter_context(archive.open(_only_member(archive))))
            except RuntimeError as error:
                raise UnreadableError(f"the zip archive cannot be opened: {error}") from None
        case _:
            stream: Any = pa.CompressedInputStream(stack.enter_context(pa.OSFile(str(path))), compression)
            return cast("BinaryIO", io.BufferedReader(stack.enter_context(stream), _BUFFER))


def _only_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [info for info in archive.infolist() if not info.is_dir()]
    # What macOS puts beside every file.
    members = [info for info in members if not info.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise UnreadableError(f"the zip archive holds {len(members)} files: send one file at a time")
    return members[0]
