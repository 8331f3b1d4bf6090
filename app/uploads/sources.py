"""Files that a client only names: copied from where the operator allows, and from nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec

from app.problems import Invalid

_PIECE = 4 * 2**20
_POINTER = "/url"


def fetch(url: str, allowed: Sequence[str], target: Path, max_bytes: int) -> str:
    """Copy the file that a URL names.

    Args:
        url: Of scheme ``file`` or ``s3``.
        allowed: What the operator allows: beginnings of URLs, each ending in a slash.
        target: The copy.
        max_bytes: Bytes that it may have.

    Returns:
        The file's name.

    Raises:
        Invalid: If the URL is not allowed, leads out of what is, or there is no such file.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Invalid.at(_POINTER, f"this is no URL: {error}") from None
    path = unquote(parts.path) if parts.scheme == "file" else parts.path
    steps = path.split("/")[1:]
    # Nothing of a URL is left to be understood in two ways.
    is_plain = url == f"{parts.scheme}://{parts.netloc}{parts.path}" and "::" not in url and "\\" not in path
    if not is_plain or not path.isprintable() or any(step in ("", ".", "..") for step in steps):
        raise Invalid.at(_POINTER, "this is no plain URL of a file: no query, no login, no '..', no chaining")
    plain = f"{parts.scheme}://{parts.netloc}{path}"
    roots = [root for root in allowed if plain.startswith(root)]
    if not roots:
        raise _not_allowed()
    with _open_local(path, roots) if parts.scheme == "file" else _open_remote(plain) as file:
        _copy(file, target, max_bytes)
    return steps[-1]


def _not_allowed() -> Invalid:
    return Invalid.at(_POINTER, "this is not below any of the places that the operator of this server allows")


def _open_local(path: str, roots: Sequence[str]) -> BinaryIO:
    real = Path(os.path.realpath(path))
    # Links may stay within a place that is allowed, and not lead out of it.
    if not any(real.is_relative_to(os.path.realpath(urlsplit(root).path)) for root in roots):
        raise _not_allowed()
    try:
        # Opening a pipe would wait for its writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Invalid.at(_POINTER, f"the file cannot be opened: {error.strerror}") from None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise Invalid.at(_POINTER, "this is no regular file")
    return file


def _open_remote(url: str) -> BinaryIO:
    scheme, _, path = url.partition("://")
    try:
        # The file system's own open takes the path as it is; fsspec.open would look for patterns and chains in it.
        filesystem: Any = fsspec.filesystem(scheme)
        return filesystem.open(path, "rb", block_size=_PIECE, cache_type="readahead")
    except ImportError:
        raise Invalid.at(
            _POINTER, f"this server cannot read {scheme}://: its operator may install it"
        ) from None
    except OSError as error:
        raise Invalid.at(_POINTER, f"the file cannot be opened: {error}") from None


def _copy(file: BinaryIO, target: Path, max_bytes: int) -> None:
    total = 0
    with target.open("wb") as copy:
        while piece := file.read(_PIECE):
            total += len(piece)
            if total > max_bytes:
                raise Invalid.at(_POINTER, f"a file has at most {max_bytes:,} bytes")
            copy.write(piece)
