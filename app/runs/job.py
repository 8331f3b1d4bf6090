"""From what a client asked to what a worker does: every check of a run that can be made before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Dataset, Split
from app.problems import Invalid
from mtl_core.building import Limits, TaskReport, check_task, shared_fields
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.fields import FieldShape, FieldShapes
from mtl_core.losses import LOSSES
from mtl_core.specs import DType, FieldSpec, TaskSpec
from mtl_core.training.config import TrainerConfig


class RunTrainerConfig(TrainerConfig):
    """Settings of a training."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Examples in a batch."""


class SplitRef(BaseModel):
    """A split, pinned by the checksum of its tensors."""

    dataset: str
    split: str
    sha256: str
    tasks: list[str]
    """Tasks of the model that it labels."""


class FieldRef(BaseModel):
    """Shape of one example of a field, and the dtype in which the tasks read it."""

    shape: list[int] | None
    """null where no dataset of the run has the field, and no layer tells."""
    dtype: DType


class Job(BaseModel):
    """All that a worker needs to know of a run: what is registered later changes nothing of it."""

    tasks: list[TaskSpec]
    splits: list[SplitRef]
    fields: dict[str, FieldRef]
    init_from: int | None = None
    """Version to start from."""


def plan_job(
    session: Session,
    specs: Sequence[TaskSpec],
    datasets: Sequence[str],
    limits: Limits,
    fields: Mapping[str, FieldRef] | None = None,
) -> Job:
    """Check that datasets suit tasks, and pin both.

    Args:
        session: The transaction.
        specs: The tasks.
        datasets: Names of datasets.
        limits: What a spec may ask for.
        fields: Shapes that fields must have; default: whatever they have in the datasets, if it suits the tasks.

    Raises:
        Invalid: At the dataset that is unknown, labels none of the tasks, lacks a field that they read, or whose
            shapes or labels do not suit them.
    """
    by_name = {spec.name: spec for spec in specs}
    reports = {spec.name: check_task(spec, limits) for spec in specs}
    checks = _Checks(by_name, reports, shared_fields(reports), limits, dict(fields or {}))
    known = {row.name: row for row in session.scalars(select(Dataset).where(Dataset.name.in_(datasets)))}
    splits: list[SplitRef] = []
    faults: list[Fault] = []
    for i, name in enumerate(datasets):
        details = [f"there is no dataset '{name}'"]
        if name in datasets[:i]:
            details = [f"dataset '{name}' is named twice"]
        elif dataset := known.get(name):
            used = [split for split in dataset.splits if checks.labelled(split)]
            details = [detail for split in used for detail in checks.faults_of(split)]
            if not used:
                details = [f"dataset '{name}' labels none of the tasks {sorted(by_name)}"]
            splits += [
                SplitRef(dataset=name, split=split.name, sha256=split.sha256, tasks=checks.labelled(split))
                for split in used
            ]
        faults += [Fault(pointer_to("datasets", i), detail) for detail in dict.fromkeys(details)]
    if faults:
        raise Invalid(faults[0].detail, faults)
    # Fields of tasks that none of the datasets labels: predictions need to know them all the same.
    others = {name: FieldRef(shape=shape.shape, dtype=shape.dtype) for name, shape in checks.needed.items()}
    return Job(tasks=list(specs), splits=splits, fields=others | checks.fields)


@dataclass
class _Checks:
    """Holds splits against the tasks that they label, and gathers the shapes of the fields on the way."""

    specs: dict[str, TaskSpec]
    reports: dict[str, TaskReport]
    needed: FieldShapes
    limits: Limits
    fields: dict[str, FieldRef] = field(default_factory=dict[str, FieldRef])
    _checked: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])

    def labelled(self, split: Split) -> list[str]:
        return [task for task in split.labels if task in self.specs]

    def faults_of(self, split: Split) -> list[str]:
        where, tasks = f"split '{split.name}' of dataset '{split.dataset}'", self.labelled(split)
        faults = [f"{where} {fault}" for task in tasks for fault in self._field_faults(task, split)]
        return faults or [
            f"{where}: {fault}" for task in tasks for fault in self._label_faults(task, split.labels[task])
        ]

    def _field_faults(self, task: str, split: Split) -> Iterator[str]:
        for name in self.reports[task].fields:
            stored, dtype = split.fields.get(name), self.needed[name].dtype
            if stored is None:
                yield f"labels task '{task}' but lacks the field '{name}' that it reads"
                continue
            known = self.fields.get(name)
            if known is None or known.shape is None:
                known = self.fields[name] = FieldRef(shape=stored["shape"], dtype=dtype)
            if known.shape != stored["shape"]:
                yield f"has field '{name}' of shape {stored['shape']}, which is {known.shape} elsewhere"
            if dtype == "int64" and stored["dtype"] != "int64":
                yield f"has fractions in field '{name}', which an embedding reads: it takes integers"

    def _label_faults(self, task: str, labels: dict[str, Any]) -> list[str]:
        spec = self.specs[task]
        form = FieldSpec(shape=labels["shape"], dtype=labels["dtype"])
        key = (task, form.model_dump_json())
        if key not in self._checked:
            fields = {
                name: FieldShape(ref.shape, ref.dtype)
                for name, ref in self.fields.items()
                if name in self.reports[task].fields
            }
            try:
                self.reports[task] = check_task(spec, self.limits, fields, form)
                self._checked[key] = []
            except SpecError as error:
                self._checked[key] = [f"task '{task}': {fault.detail}" for fault in error.faults]
        return self._checked[key] or list(self._range_faults(task, labels))

    def _range_faults(self, task: str, labels: dict[str, Any]) -> Iterator[str]:
        lowest, highest = labels["min"], labels["max"]
        output_shape = self.reports[task].output_shape
        loss = LOSSES.arguments(self.specs[task].loss)[0]
        if lowest is None or not output_shape:
            return
        classes = {"cross_entropy": output_shape[0], "binary_cross_entropy": 2}.get(loss)
        if classes and (lowest < 0 or highest >= classes):
            wrong = lowest if lowest < 0 else highest
            yield f"task '{task}' has classes 0 to {classes - 1}, but a label is {wrong}"
