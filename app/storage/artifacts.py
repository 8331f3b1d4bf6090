"""A store of immutable files, each named by the SHA-256 of its content; tensors are kept as safetensors."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from mtl_core.files import move_durably, read_tensors, sync_folder

_SCRATCH = ".scratch-"
_LOCK = "lock"
_COLLECTOR_LOCK = ".collector-lock"


class DamagedArtifactError(Exception):
    """An artifact is not there, or its content is not what its name says."""


@dataclass(frozen=True)
class StoredFile:
    """A file in the store.

    Attributes:
        sha256: Name of its artifact.
        bytes: Its size.
    """

    sha256: str
    bytes: int


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
        if self._refresh(sha256):
            return sha256
        descriptor, temporary = tempfile.mkstemp(dir=self._folder(sha256), prefix=".writing-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            self._place(Path(temporary), sha256)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return sha256

    def put_file(self, path: Path) -> StoredFile:
        """Move a file of any size into the store, durably before this returns; equal content is stored once.

        Args:
            path: A file within :meth:`scratch`; it is gone from there afterwards.
        """
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            if self._refresh(sha256):
                path.unlink()
                return StoredFile(sha256, size)
        self._place(path, sha256)
        return StoredFile(sha256, size)

    @contextlib.contextmanager
    def scratch(self) -> Generator[Path]:
        """Give a folder for files on their way, removed with all that is in it afterwards."""
        outer = Path(tempfile.mkdtemp(dir=self.root, prefix=_SCRATCH))
        try:
            # The lock tells the collector that somebody still works here, however old the files are.
            with (outer / _LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                inner = outer / "files"
                inner.mkdir()
                yield inner
        finally:
            shutil.rmtree(outer, ignore_errors=True)

    def put_tensors(self, tensors: dict[str, torch.Tensor]) -> StoredTensors:
        """Store tensors by name as one safetensors file; equal tensors give equal files."""
        content = safetensors.torch.save(tensors)
        numbers = sum(tensor.numel() for tensor in tensors.values())
        return StoredTensors(self.put(content), len(content), numbers)

    def load_tensors(self, sha256: str) -> dict[str, torch.Tensor]:
        """Load tensors by name.

        Raises:
            DamagedArtifactError: If the artifact is missing or was altered.
        """
        tensors, _ = read_tensors(self.path(sha256))
        return tensors

    def path(self, sha256: str, verify: bool = True) -> Path:
        """Return the path of an artifact.

        Args:
            sha256: Its name.
            verify: Whether its content is checked just now, and not only that it is there; default: true.

        Raises:
            DamagedArtifactError: If it is missing or was altered.
        """
        path = self._path(sha256)
        if not verify and path.is_file():
            return path
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise DamagedArtifactError(f"artifact {sha256} is missing from the store") from None
        if actual != sha256:
            raise DamagedArtifactError(f"artifact {sha256} is damaged: its content has checksum {actual}")
        return path

    def remove(self, sha256: str) -> None:
        """Remove an artifact that nothing refers to, and nothing else ever will."""
        self._path(sha256).unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Write and remove a file.

        Raises:
            OSError: If the store cannot be written.
        """
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-"):
            pass

    def collect(self, referenced: Collection[str], older_than_s: float) -> list[str]:
        """Remove what nothing refers to, and what processes that are gone left in :meth:`scratch`.

        Nothing is removed while that is :meth:`spared`, or collected by another process.

        Args:
            referenced: Names that something refers to.
            older_than_s: Age in seconds; what is younger is spared.

        Returns:
            The names of what was removed.
        """
        removed: list[str] = []
        with self._collector_lock(fcntl.LOCK_EX) as is_free:
            if is_free:
                removed = list(self._collect(referenced, time.time() - older_than_s))
        return removed

    @contextlib.contextmanager
    def spared(self) -> Generator[None]:
        """Have nothing be collected during the block; waits for a collection that is going on."""
        with self._collector_lock(fcntl.LOCK_SH):
            yield

    def has(self, sha256: str) -> bool:
        """Say whether there is an artifact of that name; its content is not looked at."""
        return self._path(sha256).is_file()

    def names(self) -> Iterator[str]:
        """Yield the names of all artifacts."""
        return (path.name for path in self._files())

    @contextlib.contextmanager
    def _collector_lock(self, kind: int) -> Generator[bool]:
        """Take the lock that collecting needs for itself; say whether that could be had."""
        with (self.root / _COLLECTOR_LOCK).open("ab") as lock:
            try:
                fcntl.flock(lock, kind | (fcntl.LOCK_NB if kind == fcntl.LOCK_EX else 0))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _collect(self, referenced: Collection[str], horizon: float) -> Iterator[str]:
        for path in self._files():
            if path.name not in referenced and path.stat().st_mtime < horizon:
                path.unlink(missing_ok=True)
                yield path.name
        for folder in self.root.glob(f"{_SCRATCH}*"):
            if folder.stat().st_mtime < horizon and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                yield folder.name

    def _refresh(self, sha256: str) -> bool:
        """Make an artifact young, for the collector to stay away until the row that refers to it is there.

        Returns:
            Whether there is one; where it is damaged, it is to be written anew.
        """
        try:
            os.utime(self.path(sha256))
        except DamagedArtifactError:
            return False
        return True

    def _place(self, written: Path, sha256: str) -> None:
        os.utime(written)
        move_durably(written, self._folder(sha256) / sha256)

    def _folder(self, sha256: str) -> Path:
        folder = self._path(sha256).parent
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync_folder(self.root)
        return folder

    def _files(self) -> Iterator[Path]:
        return (path for path in self.root.glob("??/*") if path.is_file())

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def _is_abandoned(scratch: Path) -> bool:
    try:
        with (scratch / _LOCK).open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
