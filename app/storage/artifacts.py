"""A store of immutable files, each named by the SHA-256 of its content; tensors are kept as safetensors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch


class DamagedArtifactError(Exception):
    """An artifact is not there, or its content is not what its name says."""


@dataclass(frozen=True)
class StoredTensors:
    """Tensors in the store.

    Attributes:
        sha256: Name of their artifact.
        bytes: Its size.
        numbers: Numbers that the tensors hold.
    """

    sha256: str
    bytes: int
    numbers: int


class ArtifactStore:
    """Files under ``root``, written whole or not at all.

    Args:
        root: The store's folder, made if need be. Every process that shares the store sees the same one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> str:
        """Store a file, durably before this returns, and return its SHA-256; equal content is stored once."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._path(sha256)
        path.parent.mkdir(exist_ok=True)
        # Where it is missing or damaged, it is written anew.
        with contextlib.suppress(DamagedArtifactError):
            # A fresh time keeps the collector away until the row that refers to it is there.
            os.utime(self.path(sha256))
            return sha256
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        return sha256

    def put_tensors(self, tensors: dict[str, torch.Tensor]) -> StoredTensors:
        """Store tensors by name as one safetensors file; equal tensors give equal files."""
        content = safetensors.torch.save(tensors)
        numbers = sum(tensor.numel() for tensor in tensors.values())
        return StoredTensors(self.put(content), len(content), numbers)

    def load_tensors(self, sha256: str, rows: slice | None = None) -> dict[str, torch.Tensor]:
        """Load tensors by name, all of them or some rows of each.

        Raises:
            DamagedArtifactError: If the artifact is missing or was altered.
        """
        # safetensors types its handle only in part.
        with cast("Any", safetensors.safe_open(self.path(sha256), framework="pt")) as file:
            if rows is None:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return {name: file.get_slice(name)[rows] for name in file.keys()}  # noqa: SIM118

    def path(self, sha256: str) -> Path:
        """Return the path of an artifact whose content was checked just now.

        Raises:
            DamagedArtifactError: If it is missing or was altered.
        """
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise DamagedArtifactError(f"artifact {sha256} is missing from the store") from None
        if actual != sha256:
            raise DamagedArtifactError(f"artifact {sha256} is damaged: its content has checksum {actual}")
        return path

    def check_writable(self) -> None:
        """Write and remove a file.

        Raises:
            OSError: If the store cannot be written.
        """
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-"):
            pass

    def collect(self, referenced: Collection[str], older_than_s: float) -> list[str]:
        """Remove files that nothing refers to, sparing those younger than ``older_than_s`` seconds.

        Returns:
            The names of what was removed.
        """
        horizon = time.time() - older_than_s
        removed: list[str] = []
        for path in self._files():
            if path.name not in referenced and path.stat().st_mtime < horizon:
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed

    def _files(self) -> Iterator[Path]:
        return (path for path in self.root.glob("??/*") if path.is_file())

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
