"""Bundles: a model's specs, its weights and how its fields are made, to be taken elsewhere and imported again."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtl_core.building.budget import Limits, check_budget, count_parameters
from mtl_core.building.fields import FieldShape, FieldShapes
from mtl_core.building.tasks import build_tasks, check_task
from mtl_core.errors import MODULE_FAILURES, BundleError, TaskloomError, first_line
from mtl_core.export.files import Archive, Folder, opened, words_of
from mtl_core.export.preprocessing import NOTE, PREPROCESSING, beside, fitted_fields
from mtl_core.files import written_whole
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.weights import load_module_weights
from mtl_core.specs import DType, TaskSpec

SPEC, WEIGHTS = "spec.json", "weights.safetensors"
"""What every bundle holds; it may also have a preprocessing, and a note, which is never read."""

MAX_SPEC_BYTES, MAX_PREPROCESSING_BYTES, MAX_TASKS = 2**24, 2**27, 4096
"""What is read of a bundle at most, in bytes, and of how many tasks."""

_BYTES_A_PARAMETER = 16
"""Four times what most take: slices bring a layer with several names, which is written under each."""

_BYTES_BESIDE_A_TENSOR, _BYTES_BESIDE = 1024, 2**16
"""Room for names and shapes in a file of weights."""

_MOMENT = (1980, 1, 1, 0, 0, 0)
"""When all files of an archive were made: equal bundles are equal files."""


class _Field(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shape: Annotated[list[Annotated[int, Field(strict=True, ge=1, le=2**24)]], Field(max_length=8)] | None
    dtype: DType
    vocabulary: Annotated[int, Field(strict=True, ge=1)] | None = None


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds, checked.

    Attributes:
        specs: The tasks.
        weights: Tensors by ``{module name}/{path in the module}``: just those of the tasks' modules.
        fields: Shape and dtype of one example of each field.
        preprocessing: How raw columns become fields, as JSON; None where the bundle has none.
    """

    specs: list[TaskSpec]
    weights: dict[str, torch.Tensor]
    fields: FieldShapes
    preprocessing: str | None

    def classifier(
        self, name: str | None = None, device: int | str | torch.device = -1
    ) -> MultitaskClassifier:
        """Build the model, which answers bit for bit what the one that was written did.

        Args:
            name: What to call it; default: that of its class.
            device: Where it lives, as for :class:`~mtl_core.MultitaskClassifier`; default: the CPU.
        """
        classifier = MultitaskClassifier(build_tasks(self.specs), name=name, device=device)
        load_module_weights(classifier, self.weights)
        return classifier.eval()


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["taskloom-bundle"]
    version: Literal[1]
    tasks: Annotated[list[TaskSpec], Field(min_length=1, max_length=MAX_TASKS)]
    fields: dict[Annotated[str, Field(max_length=256)], _Field]

    @classmethod
    def read(cls, content: bytes) -> _Manifest:
        try:
            manifest = cls.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(f"'{SPEC}': {words_of(error)}") from error
        names = [spec.name for spec in manifest.tasks]
        if len(set(names)) < len(names):
            raise BundleError(f"'{SPEC}': two tasks have one name")
        return manifest

    def bundle(self, weights: Mapping[str, torch.Tensor], preprocessing: str | None) -> Bundle:
        fields = {
            name: FieldShape(field.shape, field.dtype, vocabulary=field.vocabulary)
            for name, field in self.fields.items()
        }
        return Bundle(list(self.tasks), dict(weights), fields, preprocessing)


def write_bundle(
    path: str | os.PathLike[str],
    specs: Sequence[TaskSpec],
    weights: Mapping[str, torch.Tensor],
    fields: Mapping[str, FieldShape],
    preprocessing: str | None = None,
) -> None:
    """Write a model as a folder, or as a zip archive, which is there whole or not at all.

    It holds ``spec.json``, ``weights.safetensors``, ``preprocessing.json`` where there is one, and ``README.md``, which
    says what a caller does to raw columns.

    Args:
        path: A name that ends in ``.zip``, for an archive, or a folder; what is there is replaced, file by file.
        specs: The tasks, with nothing left open that comes with the data.
        weights: As :func:`~mtl_core.module_weights` answers them.
        fields: Shape and dtype of one example of each field.
        preprocessing: How raw columns become fields: a JSON object, with a
            :class:`~mtl_core.preprocessing.FittedField` for each field under ``fields``; default: fields are tensors.

    Raises:
        BundleError: If these do not belong together, so that what is written could not be read again.
    """
    manifest = {
        "format": "taskloom-bundle",
        "version": 1,
        "tasks": [spec.written_out() for spec in specs],
        "fields": {
            name: {"shape": field.shape, "dtype": field.dtype, "vocabulary": field.vocabulary}
            for name, field in fields.items()
        },
    }
    content = {SPEC: json.dumps(manifest, indent=1).encode()}
    bundle = _Manifest.read(content[SPEC]).bundle(weights, preprocessing)
    _check_weights(bundle, bundle.weights)
    content[WEIGHTS] = safetensors.torch.save(bundle.weights)
    content |= beside(fields, preprocessing)
    if os.fspath(path).endswith(".zip"):
        with written_whole(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(zipfile.ZipInfo(name, _MOMENT), data, zipfile.ZIP_DEFLATED)
        return
    for name, data in content.items():
        with written_whole(Path(path) / name) as scratch:
            scratch.write_bytes(data)


def read_bundle(path: str | os.PathLike[str], limits: Limits = Limits()) -> Bundle:  # noqa: B008 It is frozen.
    """Read what :func:`write_bundle` wrote, whoever it is from: nothing is unpickled, and nothing is unpacked to disk.

    Specs are checked as those of a request are, and weights are read only once the tasks are known to be within the
    limits: no more of them than the tasks have.

    Args:
        path: The folder, or the archive.
        limits: What the tasks may ask for, each and all together.

    Raises:
        FileNotFoundError: If there is neither.
        BundleError: If a file is missing, strange, too large or damaged, a task is wrong or too large, or weights or
            preprocessing are of another model.
    """
    with opened(path) as files:
        return _read(files, limits)


def _read(files: Folder | Archive, limits: Limits) -> Bundle:
    names = files.names()
    if strange := sorted(set(names) - {SPEC, WEIGHTS, PREPROCESSING, NOTE}):
        raise BundleError(f"a bundle has no file '{strange[0]}'")
    if len(set(names)) < len(names):
        raise BundleError("two files have one name")
    for name in (SPEC, WEIGHTS):
        if name not in names:
            raise BundleError(f"'{name}' is missing")
    manifest = _Manifest.read(files.read(SPEC, MAX_SPEC_BYTES))
    preprocessing = None
    if PREPROCESSING in names:
        preprocessing = _text(PREPROCESSING, files.read(PREPROCESSING, MAX_PREPROCESSING_BYTES))
    outline = manifest.bundle({}, preprocessing)
    if preprocessing is not None:
        fitted_fields(preprocessing, outline.fields)
    content = files.read(WEIGHTS, _most_bytes(_outline(outline, limits), limits))
    try:
        weights = safetensors.torch.load(content)
    except (safetensors.SafetensorError, *MODULE_FAILURES) as error:
        raise _of_file(WEIGHTS, error) from error
    _check_weights(outline, weights)
    return manifest.bundle(weights, preprocessing)


def _outline(bundle: Bundle, limits: Limits) -> MultitaskClassifier:
    """Return the model without its weights, once it is known to be within limits."""
    try:
        for spec in bundle.specs:
            check_task(spec, limits, bundle.fields)
        with torch.device("meta"):
            tasks = build_tasks(bundle.specs)
        check_budget(count_parameters(tasks), limits)
        return MultitaskClassifier(tasks, device="meta")
    except TaskloomError as error:
        raise _of_file(SPEC, error) from error


def _most_bytes(model: MultitaskClassifier, limits: Limits) -> int:
    """Return how large a file of the model's weights may be."""
    # A layer of several names is there under each of them.
    tensors = [
        tensor
        for module in model.module_pool.values()
        for _, tensor in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        )
    ]
    n_bytes = sum(tensor.nbytes for tensor in tensors)
    if n_bytes > (most := _BYTES_A_PARAMETER * limits.max_parameters):
        raise BundleError(f"'{SPEC}': the weights of its tasks are {n_bytes:,} bytes; at most {most:,}")
    return n_bytes + _BYTES_BESIDE_A_TENSOR * len(tensors) + _BYTES_BESIDE


def _check_weights(bundle: Bundle, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not just those of the tasks' modules."""
    try:
        with torch.device("meta"):
            model = MultitaskClassifier(build_tasks(bundle.specs), device="meta")
    except TaskloomError as error:
        raise _of_file(SPEC, error) from error
    modules = {key.rpartition("/")[0] for key in weights}
    if strange := sorted(modules - set(model.module_pool)):
        raise BundleError(f"'{WEIGHTS}': no task has a module '{strange[0]}'")
    try:
        # On the meta device nothing is copied.
        load_module_weights(model, weights)
    except TaskloomError as error:
        raise _of_file(WEIGHTS, error) from error


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _of_file(name, error) from error


def _of_file(name: str, error: Exception) -> BundleError:
    return BundleError(f"'{name}': {first_line(error)}")
