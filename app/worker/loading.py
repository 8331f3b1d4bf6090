"""A split's raw rows → encoded tensors: in memory while they are small, else in files that are mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from app.datasets.parts import read_part
from app.runs.job import Job, SplitRef
from app.runs.preprocessing import Preprocessing
from app.runs.slices import raw_array
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core import DictDataset
from mtl_core.mapped import ArrayWriter, MappedDataset
from mtl_core.slicing import slice_labels, slice_masks
from mtl_core.slicing.names import slice_label_sets
from mtl_core.task import WEIGHTS

Array = NDArray[Any]

T = TypeVar("T")

_ROWS = 16_384
_X, _Y = "X/", "Y/"


class SplitLoader:
    """Loads a run's splits.

    Args:
        store: Where tables are.
        encoders: Sentence encoders for columns of text.
        job: What the run reads.
        preprocessing: How raw columns become fields.
        folder: Where files may go, which must outlive the datasets.
        memory_bytes: Bytes that all splits together may take in memory; a run that needs more maps all of them.
    """

    def __init__(
        self,
        store: ArtifactStore,
        encoders: SentenceEncoders,
        job: Job,
        preprocessing: Preprocessing,
        folder: Path,
        memory_bytes: int,
    ) -> None:
        encoders.check(preprocessing.fields)
        self._store = store
        self._encoders = encoders
        self._job = job
        self._preprocessing = preprocessing
        self._folder = folder
        self.bytes = sum(ref.rows * _row_bytes(self._forms(ref)) for ref in job.splits)
        self.maps = self.bytes > memory_bytes

    def load(self, ref: SplitRef) -> DictDataset:
        """Encode a split: the fields that the tasks read, the labels of the tasks, and the examples' weights."""
        return self._mapped(ref) if self.maps else self._in_memory(ref)

    def _in_memory(self, ref: SplitRef) -> DictDataset:
        arrays: dict[str, Array] = {
            name: np.empty((ref.rows, *shape), dtype=dtype)
            for name, (dtype, shape) in self._forms(ref).items()
        }
        filled = 0
        for encoded in self._encoded(ref):
            rows = len(next(iter(encoded.values())))
            for name, values in encoded.items():
                arrays[name][filled : filled + rows] = values
            filled += rows
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return DictDataset(ref.dataset, ref.split, _named(tensors, _X), _named(tensors, _Y))

    def _mapped(self, ref: SplitRef) -> DictDataset:
        folder = self._folder / f"{ref.dataset}-{ref.split}"
        folder.mkdir()
        files: dict[str, Path] = {}
        with ExitStack() as stack:
            writers: dict[str, ArrayWriter] = {}
            for number, (name, (dtype, shape)) in enumerate(self._forms(ref).items()):
                files[name] = folder / f"{number}.npy"
                writers[name] = stack.enter_context(ArrayWriter(files[name], dtype, shape, ref.rows))
            for encoded in self._encoded(ref):
                for name, values in encoded.items():
                    writers[name].write(values)
        return MappedDataset.open(ref.dataset, ref.split, _named(files, _X), _named(files, _Y))

    def _encoded(self, ref: SplitRef) -> Iterator[dict[str, Array]]:
        """Yield the split's rows some at a time, every array of them by its name."""
        forms = self._forms(ref)
        fields = {name: self._preprocessing.fields[name] for name in ref.fields}
        read = [column for field in fields.values() for column in field.column_names]
        read += [label.codec.column for label in ref.labels.values()]
        read += [*ref.slice_columns.values(), *([ref.weights] if ref.weights else [])]
        columns = list(dict.fromkeys(read))
        for part in ref.parts:
            for whole in read_part(self._store, part, columns):
                for start in range(0, whole.num_rows, _ROWS):
                    batch = whole.slice(start, _ROWS)
                    raw = {name: batch.column(name) for name in columns}
                    encoded = {_X + name: field.encode(raw, self._encoders) for name, field in fields.items()}
                    if ref.weights:
                        encoded[_X + WEIGHTS] = (
                            raw[ref.weights].cast(pa.float32()).to_numpy(zero_copy_only=False)
                        )
                    for task, label in ref.labels.items():
                        encoded[_Y + task] = label.codec.encode(raw[label.codec.column])
                    encoded |= self._slice_labels(ref, raw, encoded)
                    yield {
                        name: values.astype(forms[name][0], copy=False) for name, values in encoded.items()
                    }

    def _slice_labels(
        self, ref: SplitRef, raw: Mapping[str, pa.Array], encoded: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return the labels of the slice tasks of some rows."""
        if not ref.slice_columns:
            return {}
        columns = {name: raw_array(raw[column]) for name, column in ref.slice_columns.items()}
        return {
            _Y + name: values
            for spec in self._job.tasks
            if spec.slices and spec.name in ref.labels
            for name, values in slice_labels(
                spec.name, encoded[_Y + spec.name], slice_masks(spec.slices, columns), with_whole=True
            ).items()
        }

    def _forms(self, ref: SplitRef) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Return dtype and shape of one example of every array of a split."""
        forms: dict[str, tuple[str, list[int]]] = {}
        for name in ref.fields:
            forms[_X + name] = (self._job.fields[name].dtype, self._preprocessing.fields[name].shape)
        if ref.weights:
            forms[_X + WEIGHTS] = ("float32", [])
        slices = {spec.name: [part.name for part in spec.slices] for spec in self._job.tasks}
        for task, label in ref.labels.items():
            forms[_Y + task] = (label.dtype, label.shape)
            for name, kind in slice_label_sets(task, slices.get(task, [])).items():
                forms[_Y + name] = ("int64", []) if kind == "indicator" else (label.dtype, label.shape)
        return {name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in forms.items()}


def _row_bytes(forms: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in forms.values())


def _named(values: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
