"""Datasets larger than memory: fields and labels in ``.npy`` files that are mapped rather than read."""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from math import prod
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.lib import format as npy

from mtl_core.data import Batch, DictDataset
from mtl_core.errors import TaskloomError

RESIDENT_BYTES = 256 * 2**20
"""How much of its files a dataset keeps in the process's memory by default."""

_BATCHES_AHEAD = 2


class MappedArray:
    """A ``.npy`` file mapped read-only as a tensor.

    Args:
        path: The file; it must stay as it is while the array lives.

    Attributes:
        tensor: The whole array ``[n, …]``, of which what is looked at comes into memory; not to be written to.
        n_bytes: Size of the file.

    Raises:
        TaskloomError: If the file is no complete ``.npy`` file of rows of numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            shape, dtype, self._offset = _header(file, path)
            self.n_bytes = file.seek(0, 2)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        if self.n_bytes != self._offset + prod(shape) * dtype.itemsize:
            raise TaskloomError(f"'{path}' has {self.n_bytes:,} bytes, which is not what its header says")
        flat = np.frombuffer(mapped, np.uint8)[self._offset :].view(dtype)
        # Unlike torch.from_numpy, this takes an array that must not be written to without a warning.
        self.tensor: torch.Tensor = torch.from_dlpack(flat.reshape(shape))
        self._row_bytes = prod(shape[1:]) * dtype.itemsize

    def select(self, indices: torch.Tensor) -> torch.Tensor:
        """Copy the rows at ``indices [k]`` to a tensor ``[k, …]`` by way of the map, whose pages stay in memory."""
        return self.tensor.index_select(0, indices)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """Copy the rows at ``indices [k]`` to a tensor ``[k, …]`` from the file, which leaves nothing in memory.

        Raises:
            IndexError: If there is no such row.
            TaskloomError: If the file has become shorter.
        """
        at, size = indices.numpy(), self._row_bytes
        if not at.size or not size:
            return self.select(indices)
        if at.min() < 0 or at.max() >= len(self.tensor):
            raise IndexError(
                f"there are {len(self.tensor):,} rows, and one of {at.min():,} to {at.max():,} is wanted"
            )
        # Neighbouring rows are read at once.
        starts = np.flatnonzero(np.diff(at, prepend=at[0] - 2) != 1)
        lengths = np.diff(starts, append=at.size) * size
        places = zip(lengths.tolist(), (self._offset + at[starts] * size).tolist(), strict=True)
        rows = bytearray().join([os.pread(self._file, length, place) for length, place in places])
        if len(rows) != at.size * size:
            raise TaskloomError(f"'{self._path}' is shorter than it was")
        return torch.frombuffer(rows, dtype=self.tensor.dtype).reshape(at.size, *self.tensor.shape[1:])


class MappedDataset(DictDataset):
    """One split of a dataset whose fields and labels are mapped files, of which little is in memory at a time.

    Batches are copies of the rows that they ask for. The smallest files, as far as they fit into ``resident_bytes``
    together, are read through their maps, whose pages stay in the process's memory. Rows of the others are read from
    the file: looking at one row in a map can bring as much as 2 MiB around it into memory, and giving it back and
    fetching it again for nearly every row costs more than reading the row. The system's page cache serves both ways.

    Args:
        name: The dataset's name.
        split: The split's name.
        X_arrays: Field name → its file, one row per example.
        Y_arrays: Task name → its labels' file.
        resident_bytes: How much of the files may stay in memory; default 256 MiB.

    Raises:
        TaskloomError: If there is no field, or lengths differ.
    """

    def __init__(
        self,
        name: str,
        split: str,
        X_arrays: Mapping[str, MappedArray],
        Y_arrays: Mapping[str, MappedArray],
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        super().__init__(
            name,
            split,
            {field: array.tensor for field, array in X_arrays.items()},
            {task: array.tensor for task, array in Y_arrays.items()},
        )
        arrays = sorted((*X_arrays.values(), *Y_arrays.values()), key=lambda array: array.n_bytes)
        sizes = accumulate(array.n_bytes for array in arrays)
        small = {array for array, size in zip(arrays, sizes, strict=True) if size <= resident_bytes}
        self._X_rows, self._Y_rows = (
            {key: array.select if array in small else array.read for key, array in of.items()}
            for of in (X_arrays, Y_arrays)
        )

    @classmethod
    def open(
        cls,
        name: str,
        split: str,
        X_files: Mapping[str, Path],
        Y_files: Mapping[str, Path],
        resident_bytes: int = RESIDENT_BYTES,
    ) -> MappedDataset:
        """Map a split's files, as :class:`ArrayWriter` writes them.

        Args:
            name: The dataset's name.
            split: The split's name.
            X_files: Field name → ``.npy`` file ``[n, …]``.
            Y_files: Task name → ``.npy`` file of labels, ``[n]`` or ``[n, …]``.
            resident_bytes: How much of the files may stay in memory; default 256 MiB.

        Raises:
            TaskloomError: If a file is no complete ``.npy`` file of numbers, there is no field, or lengths differ.
        """
        X_arrays = {field: MappedArray(path) for field, path in X_files.items()}
        Y_arrays = {task: MappedArray(path) for task, path in Y_files.items()}
        return cls(name, split, X_arrays, Y_arrays, resident_bytes)

    def __getitem__(self, index: int) -> Batch:
        X_dict, Y_dict = self.batch([index])
        return (
            {field: values[0] for field, values in X_dict.items()},
            {task: labels[0] for task, labels in Y_dict.items()},
        )

    def batch(self, indices: Sequence[int] | torch.Tensor) -> Batch:
        """Gather examples by index.

        Returns:
            Fields ``[len(indices), …]`` and labels ``[len(indices), …]``.
        """
        at = torch.as_tensor(indices, dtype=torch.int64)
        return (
            {field: rows(at) for field, rows in self._X_rows.items()},
            {task: rows(at) for task, rows in self._Y_rows.items()},
        )

    def batches(self, indices: Iterable[torch.Tensor]) -> Iterator[Batch]:
        """Gather a batch for each list of indices, in order, reading ahead while the caller works on one."""
        with ThreadPoolExecutor(1, "batches") as reader:
            ahead: deque[Future[Batch]] = deque()
            for at in indices:
                ahead.append(reader.submit(self.batch, at))
                if len(ahead) > _BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


class ArrayWriter:
    """Writes one ``.npy`` file from batches of rows, at the memory of one batch; used as a context manager.

    Args:
        path: The file to write; there must be none yet.
        dtype: Type of the numbers: ``"float32"`` or ``"int64"``, or another that torch has.
        shape_of_one: Shape of one row; ``()`` for a single number.
        rows: How many rows there will be.

    Raises:
        FileExistsError: If there is such a file.
        TaskloomError: If a batch has another form, or at the end there are more or fewer rows; no file is left.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ArrayWriter(Path(folder, "x.npy"), "float32", (2,), rows=3) as writer:
        ...         writer.write(np.zeros((2, 2), dtype=np.float32))
        ...         writer.write(np.ones((1, 2), dtype=np.float32))
        ...     len(MappedDataset.open("d", "train", {"x": Path(folder, "x.npy")}, {}))
        3
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any] | str, shape_of_one: Sequence[int], rows: int
    ) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._shape_of_one = tuple(shape_of_one)
        self._rows = rows
        self._written = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ArrayWriter:
        self._file = self._path.open("xb")
        shape = (self._rows, *self._shape_of_one)
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(cast("Any", self._file), header)
        return self

    def write(self, array: np.ndarray[Any, Any]) -> None:
        """Append rows ``[k, …]``.

        Raises:
            TaskloomError: If the rows have another shape or dtype, or are more than were announced.
        """
        if self._file is None:
            raise TaskloomError(f"the writer of '{self._path}' is not open")
        if array.dtype != self._dtype or array.shape[1:] != self._shape_of_one or array.ndim == 0:
            got, wanted = (array.dtype, list(array.shape[1:])), (self._dtype, list(self._shape_of_one))
            raise TaskloomError(f"rows of {wanted[0]} {wanted[1]} are written, not of {got[0]} {got[1]}")
        self._written += len(array)
        if self._written > self._rows:
            raise TaskloomError(f"{self._rows:,} rows were announced, and {self._written:,} are written")
        self._file.write(np.ascontiguousarray(array).data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        complete = kind is None and self._written == self._rows
        try:
            self._file.close()
        except OSError:
            complete = False
            raise
        finally:
            self._file = None
            if not complete:
                self._path.unlink()
        if kind is None and not complete:
            raise TaskloomError(f"{self._rows:,} rows were announced, and {self._written:,} written")


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Read the shape, the dtype and where the numbers begin."""
    try:
        if npy.read_magic(cast("Any", file)) != (1, 0):
            raise ValueError("its version is not 1.0")
        shape, fortran_order, dtype = npy.read_array_header_1_0(cast("Any", file))
    except ValueError as error:
        raise TaskloomError(f"'{path}' is no .npy file: {error}") from error
    if fortran_order or not shape or dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative:
        raise TaskloomError(f"'{path}' holds {dtype} of shape {list(shape)}, not rows of numbers")
    return shape, dtype, file.tell()
