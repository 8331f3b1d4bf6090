"""The rules for exports, which workers make, and for imports of what was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.tables import Model, Run, Version
from app.exports.schemas import ExportIn
from app.models import service as models
from app.problems import Conflict, Invalid
from app.runs.initial import whole_version
from app.runs.job import FieldRef, Job
from app.runs.preprocessing import Preprocessing, store_preprocessing
from app.runs.service import add_version, enqueue, enqueue_with
from app.runs.transitions import end
from app.storage.artifacts import ArtifactStore, StoredTensors
from app.storage.encoders import SentenceEncoders
from app.tasks import service as tasks
from mtl_core import Bundle, read_bundle
from mtl_core.building.tasks import Limits, check_task
from mtl_core.errors import TaskloomError, first_line
from mtl_core.export.files import words_of
from mtl_core.losses import LOSSES


def enqueue_export(session: Session, version: Version, request: ExportIn, client: str) -> Run:
    """Accept an export.

    Raises:
        Invalid: If the version has no such task.
    """
    models.check_tasks_of(version, request.tasks)
    job = Job(preprocessing=version.preprocessing or "", weights=[whole_version(version)])
    return enqueue_with(session, "export", version, request.model_dump(mode="json"), job, client=client)


def request_of(run: Run) -> ExportIn:
    """Return what was asked for."""
    return ExportIn.model_validate(run.request)


@dataclass(frozen=True)
class Import:
    """A bundle that was read, its parts in the store.

    Attributes:
        job: What the version is made of.
        weights: Its weights.
    """

    job: Job
    weights: StoredTensors


def read_import(store: ArtifactStore, encoders: SentenceEncoders, path: Path, limits: Limits) -> Import:
    """Read a bundle, and store what it holds.

    Args:
        store: Where it goes.
        encoders: Sentence encoders for columns of text.
        path: The archive, which may be from anyone.
        limits: What its tasks may ask for.

    Raises:
        Invalid: If it is no bundle, or damaged, or beyond the limits, or needs a sentence encoder that is not here.
    """
    try:
        bundle = read_bundle(path, limits)
        preprocessing = Preprocessing.model_validate_json(bundle.preprocessing or "{}")
        _check_classes(bundle, preprocessing, limits)
        encoders.check(preprocessing.fields)
    except (TaskloomError, ValidationError) as error:
        detail = words_of(error) if isinstance(error, ValidationError) else first_line(error)
        raise Invalid.at("", f"the bundle cannot be imported: {detail}") from None
    fields = {
        name: FieldRef(shape=field.shape, dtype=field.dtype, vocabulary=field.vocabulary)
        for name, field in bundle.fields.items()
    }
    job = Job(tasks=bundle.specs, fields=fields, preprocessing=store_preprocessing(store, preprocessing))
    return Import(job, store.put_tensors(bundle.weights))


def add_import(session: Session, name: str, found: Import, sha256: str, limits: Limits, client: str) -> Run:
    """Make a version of a bundle, and a model of its tasks where there is none of that name.

    Args:
        session: The transaction.
        name: The model's name.
        found: What the bundle holds.
        sha256: Checksum of its file.
        limits: What a task may ask for.
        client: Who sent it.

    Returns:
        A run that is over, which the version came of.

    Raises:
        Conflict: If the model has other tasks altogether, or a task is registered with another spec.
    """
    specs = found.job.tasks
    model = session.get(Model, name)
    if model is None:
        try:
            for spec in specs:
                tasks.register(session, spec, limits)
        except Conflict as error:
            raise Conflict(
                f"{error.detail}: make model '{name}' of registered tasks first, and the bundle becomes a version of it"
            ) from None
        model, _ = models.create(session, name, None, [spec.name for spec in specs], limits)
    elif not {spec.name for spec in specs} & set(models.task_names(model)):
        raise Conflict(
            f"model '{name}' has none of the bundle's tasks {[spec.name for spec in specs]}: import it as another model"
        )
    request = {"bundle": sha256}
    run = enqueue(session, "import", name, request, found.job, client=client, priority=0)
    add_version(session, run, found.job, found.weights, [])
    end(session, run, "succeeded")
    return run


def _check_classes(bundle: Bundle, preprocessing: Preprocessing, limits: Limits) -> None:
    """Refuse names of classes that a task does not have."""
    specs = {spec.name: spec for spec in bundle.specs}
    for task, names in preprocessing.class_names.items():
        if task not in specs:
            raise TaskloomError(f"there are names of classes for '{task}', which is none of its tasks")
        shape = check_task(specs[task], limits, bundle.fields).output_shape
        classes = None if shape is None else LOSSES.build(specs[task].loss).classes(shape)
        if classes != len(names):
            raise TaskloomError(f"task '{task}' has {classes} classes, but there are names of {len(names)}")
