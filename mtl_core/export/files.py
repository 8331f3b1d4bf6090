"""The files of a bundle, which may be from anyone: only as much is read as is asked for."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from mtl_core.errors import MODULE_FAILURES, BundleError, first_line, pointer_to

_DAMAGE = (*MODULE_FAILURES, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError)
"""What a damaged archive makes ``zipfile`` raise."""


@contextmanager
def opened(path: str | os.PathLike[str]) -> Generator[Folder | Archive]:
    """Open a bundle for reading.

    Args:
        path: A folder, or a zip archive.

    Raises:
        FileNotFoundError: If there is neither.
        BundleError: If it is another file, or, within the block, if the archive is damaged.
    """
    place = Path(path)
    if place.is_dir():
        yield Folder(place)
        return
    try:
        with zipfile.ZipFile(place) as archive:
            yield Archive(archive)
    except (BundleError, FileNotFoundError):
        raise
    except _DAMAGE as error:
        raise BundleError(
            f"'{place.name}' is no zip archive, or a damaged one: {first_line(error)}"
        ) from error


class Folder:
    """The files of a bundle that is a folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the files' names."""
        return sorted(entry.name for entry in self._path.iterdir())

    def read(self, name: str, most: int) -> bytes:
        """Return what a file holds.

        Raises:
            BundleError: If it is more than ``most`` bytes, or no file that can be read safely.
        """
        path = self._path / name
        # Who made the folder may have made a link to a file that is none of theirs.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"'{name}' is no plain file")
        _check_size(name, path.stat().st_size, most)
        with path.open("rb") as file:
            return file.read(most)


class Archive:
    """The files of a bundle that is a zip archive, read from where they are: nothing is unpacked to disk.

    Args:
        archive: Open for reading.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def names(self) -> list[str]:
        """Return the files' names."""
        return [entry.filename for entry in self._archive.infolist()]

    def read(self, name: str, most: int) -> bytes:
        """Return what a file holds.

        Raises:
            BundleError: If it is more than ``most`` bytes, or no file that can be read safely.
        """
        entry = self._archive.getinfo(name)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise BundleError(f"'{name}' is encrypted, or compressed in another way than deflate")
        _check_size(name, entry.file_size, most)
        with self._archive.open(entry) as file:
            # What an entry says of its size may be wrong; one byte more than is allowed is enough to know.
            content = file.read(most + 1)
        _check_size(name, len(content), most)
        return content


def words_of(error: ValidationError) -> str:
    """Return the first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{pointer_to(*first['loc'])}: {first['msg']}"


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise BundleError(f"'{name}' is larger than {most:,} bytes, which is the most that it may be here")
