"""Sentence encoders that the operator installed: text in, vectors out, each loaded on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.problems import Conflict
from mtl_core.preprocessing import FittedField, SentenceEncoder, SentenceEncoderInfo


class EncoderError(Conflict):
    """A sentence encoder is not there, or not the one that a version was trained with."""


class SentenceEncoders(Mapping[str, SentenceEncoder]):
    """Encoders by name.

    Args:
        folders: Where each was installed: a folder as ``sentence-transformers`` saves one. Clients know only names.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = dict(folders)
        self._loaded: dict[str, _Loaded] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> SentenceEncoder:
        return self._load(name).encode

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def info(self, name: str) -> SentenceEncoderInfo:
        """Return what an encoder's vectors are, and which files make them.

        Raises:
            EncoderError: If it cannot be loaded.
        """
        return self._load(name).info

    def infos_for(self, names: set[str]) -> dict[str, SentenceEncoderInfo]:
        """Return :meth:`info` of those of the names that are installed."""
        return {name: self.info(name) for name in sorted(names) if name in self._folders}

    def check(self, fields: Mapping[str, FittedField]) -> None:
        """Refuse to encode fields with another encoder than they were fitted with.

        Raises:
            EncoderError: If one is not installed, or its files are not those of then.
        """
        for field in fields.values():
            for name, info in field.encoders.items():
                if name not in self._folders:
                    raise EncoderError(f"sentence encoder '{name}' is not installed here")
                if self.info(name) != info:
                    raise EncoderError(
                        f"sentence encoder '{name}' is not the one that the version was trained with"
                    )

    def _load(self, name: str) -> _Loaded:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = _Loaded(name, self._folders[name])
            return self._loaded[name]


class _Loaded:
    def __init__(self, name: str, folder: Path) -> None:
        try:
            # An extra, and slow to import.
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415 # pyright: ignore

            # Nothing is fetched, no code of the folder runs, and weights are never pickles.
            self._model: Any = SentenceTransformer(
                str(folder.resolve(strict=True)),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise EncoderError(f"sentence encoder '{name}' cannot be loaded: {error}") from error
        dim = int(self.encode(["x"]).shape[1])
        self.info = SentenceEncoderInfo(dim=dim, sha256=_checksum(folder))

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Return vectors ``[n, dim]``."""
        vectors = self._model.encode(texts, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(
                f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()
