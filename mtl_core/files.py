"""Files that are there whole or not at all, and tensors in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors
import torch

from mtl_core.errors import TaskloomError


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Generator[Path]:
    """Give the block another file to write, which takes ``path``'s place, durably, when the block ends well.

    Folders on the way are made. What was at ``path`` before stays there until then, and for good if the block fails.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        # A temporary file is for its owner alone; what takes its place is for whom the process makes files for.
        mask = os.umask(0)
        os.umask(mask)
        scratch.chmod(0o666 & ~mask)
        move_durably(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def move_durably(path: Path, target: Path) -> None:
    """Have a file take the place of another in its file system, so that neither it nor its name is lost any more."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have what was just made, moved or removed in a folder be so even if the machine fails now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        TaskloomError: If it is another kind of file.
    """
    name = os.fspath(path)
    try:
        # safetensors types its handle only in part.
        with cast("Any", safetensors.safe_open(name, framework="pt")) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 The handle is no mapping.
            return tensors, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise TaskloomError(
            f"'{name}' is no safetensors file ({error}); pickled ones are not read"
        ) from error
