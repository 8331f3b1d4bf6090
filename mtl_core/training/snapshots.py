"""Snapshots: a training as it stands after a step, kept so that another process goes on from there, to the bit."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import uuid4

import safetensors.torch
import torch
from safetensors import SafetensorError

from mtl_core.errors import TaskloomError
from mtl_core.files import move_durably, read_tensors

_FORMAT = "taskloom-snapshot-1"
_TENSOR = "=tensor"

# What a disk is trusted to take, before the first snapshot has shown what it does.
_BYTES_PER_SECOND = 200e6
_SECONDS_AT_LEAST = 0.02


class SnapshotStore(Protocol):
    """Where the snapshots of one training are kept."""

    def add(self, write: Callable[[Path], None]) -> None:
        """Keep a snapshot, durably before this returns, as the newest.

        Args:
            write: Writes the snapshot to a file.

        Raises:
            OSError: If there is no room; the snapshots that there are stay.
        """
        ...

    def newest_first(self) -> Iterator[Path]:
        """Yield the files of snapshots whose content is what was written; what is damaged is passed over."""
        ...


class SnapshotFolder:
    """Keeps snapshots as files of a folder, each named by its number and the SHA-256 of its content.

    Args:
        folder: The folder; made if need be.
        keep: How many snapshots to keep, at least 1; default 2, so that a damaged one is not the last.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self._folder = Path(folder)
        self._keep = keep
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, write: Callable[[Path], None]) -> None:
        """Keep a snapshot and remove the oldest."""
        files = self._files()
        number = 1 + (_number(files[0]) if files else 0)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".writing-") as scratch:
            path = Path(scratch, "snapshot")
            write(path)
            move_durably(path, self._folder / f"{number:08d}-{_sha256(path)}{_SUFFIX}")
        for old in files[self._keep - 1 :]:
            old.unlink(missing_ok=True)

    def newest_first(self) -> Iterator[Path]:
        """Yield the files whose content has the checksum in their name."""
        return (path for path in self._files() if path.stem.partition("-")[2] == _sha256(path))

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*-*{_SUFFIX}"), key=_number, reverse=True)


_SUFFIX = ".safetensors"


class Snapshots:
    """When a training saves snapshots, and where.

    Args:
        store: Where they are kept: a :class:`SnapshotFolder`, or what else can keep files.
        share: The share of the training's time that saving may take; default 0.02. One is saved as soon as all so far,
            with the next, take no more than that.
        every: Seconds from one to the next, whatever they cost; default: as ``share`` says.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     snapshots = Snapshots(SnapshotFolder(folder), every=0)
        ...     snapshots.save(lambda: {"step": 3, "weights": torch.ones(2)})
        ...     snapshots.newest()
        {'step': 3, 'weights': tensor([1., 1.])}
    """

    def __init__(self, store: SnapshotStore, share: float = 0.02, every: float | None = None) -> None:
        self._store = store
        self._share = share
        self._every = every
        self.begin(0)

    def begin(self, n_bytes: int) -> None:
        """Count time from now on.

        Args:
            n_bytes: What a snapshot takes, roughly.
        """
        self._began = self._last = time.monotonic()
        self._spent = 0.0
        self._cost = _SECONDS_AT_LEAST + n_bytes / _BYTES_PER_SECOND

    def is_due(self, last: bool = False) -> bool:
        """Say whether a snapshot is to be saved now.

        Args:
            last: Whether it is that of the training's end, which is kept in reserve for all along; default: false.
        """
        now = time.monotonic()
        if self._every is not None:
            return now - self._last >= self._every or (last and self._spent > 0)
        cost = self._cost if last else 2 * self._cost
        return self._spent + cost <= self._share * (now - self._began)

    def save(self, state_dict: Callable[[], Mapping[str, Any]]) -> None:
        """Save a snapshot.

        Args:
            state_dict: Returns the state: tensors, and what JSON can hold, in dicts and lists. What that takes counts.

        Raises:
            OSError: If there is no room; the snapshots that there are stay.
        """
        began = time.monotonic()
        try:
            state = state_dict()
            self._store.add(lambda path: _write(state, path))
        finally:
            self._last = time.monotonic()
            self._cost = self._last - began
            self._spent += self._cost

    def newest(self) -> dict[str, Any] | None:
        """Return what was saved last; None without one that is intact and of this format."""
        for path in self._store.newest_first():
            state = _read(path)
            if state is not None:
                return state
        return None


def _write(state: Mapping[str, Any], path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()

    def named(tensor: torch.Tensor) -> dict[str, str]:
        name = str(len(tensors))
        plain = tensor.detach().cpu().contiguous()
        memory = plain.untyped_storage()
        # safetensors takes no two tensors that share memory.
        if memory.data_ptr() in seen or memory.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        tensors[name] = plain
        return {_TENSOR: name}

    text = json.dumps(state, default=named)
    # No two snapshots have the same content, so that whoever keeps them by that may remove one of them.
    metadata = {"format": _FORMAT, "state": text, "id": uuid4().hex}
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except SafetensorError as error:
        # It has an error of its own for a disk that is full.
        raise OSError(str(error)) from error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        tensors, metadata = read_tensors(path)
    except TaskloomError:
        return None
    if metadata.get("format") != _FORMAT:
        return None

    def put_back(entry: dict[str, Any]) -> Any:
        return tensors[entry[_TENSOR]] if entry.keys() == {_TENSOR} else entry

    return cast("dict[str, Any]", json.loads(metadata["state"], object_hook=put_back))


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
