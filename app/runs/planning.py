"""From what a client asked to what a worker does: every check of a run that can be made before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from app.datasets import service as datasets_service
from app.datasets.parts import PartSummary, load_summary, merge_moments
from app.db.tables import Split
from app.problems import Invalid, NotFound
from app.runs.job import FieldRef, Job, LabelRef, SplitRef
from app.runs.preprocessing import Preprocessing, store_preprocessing
from app.runs.slices import slice_columns, slice_faults
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core.building.fields import FieldShape, FieldShapes
from mtl_core.building.tasks import Limits, TaskReport, check_task, resolve_task, shared_fields
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.losses import LOSSES
from mtl_core.preprocessing import (
    FieldPlan,
    FittedField,
    LabelSpec,
    fit_field,
    fit_label,
    merge_summaries,
)
from mtl_core.scaling import TargetScale
from mtl_core.specs import FieldSpec, TaskSpec

# Of a task that this training has no labels for, whose head stays as it is.
_UNSCALED = TargetScale(mean=[0.0], std=[1.0])


def plan_job(
    session: Session,
    store: ArtifactStore,
    encoders: SentenceEncoders,
    specs: Sequence[TaskSpec],
    datasets: Sequence[str],
    limits: Limits,
    given: Preprocessing,
    train_split: str | None = None,
    remap_labels: Mapping[str, str | None] | None = None,
) -> Job:
    """Check that datasets suit tasks, fit how raw columns become fields, and pin all of it.

    Args:
        session: The transaction.
        store: Where summaries are, and the preprocessing goes.
        encoders: Sentence encoders for columns of text.
        specs: The tasks.
        datasets: Names of datasets, each the newest version or ``name@version``.
        limits: What a spec may ask for.
        given: What was fitted before; it goes on as it is for every field that it has.
        train_split: The split to fit all other fields on; None: there is nothing to fit on.
        remap_labels: Label set → the task that it is for, None to leave it out; default: each is for the task of its
            name.

    Raises:
        Invalid: At the label set that is mapped to no task of the model or is in no dataset; or at the dataset that
            is unknown, labels none of the tasks, lacks a field that they read, or whose shapes or labels do not suit
            them.
    """
    by_name = {spec.name: spec for spec in specs}
    reports = {spec.name: check_task(spec, limits) for spec in specs}
    remap = dict(remap_labels or {})
    checks = _Checks(
        store, encoders, by_name, reports, shared_fields(reports), limits, given, train_split, remap
    )
    faults = [
        Fault(pointer_to("remap_labels", label), f"there is no task '{task}'; there are {sorted(by_name)}")
        for label, task in remap.items()
        if task is not None and task not in by_name
    ]
    seen: set[str] = set()
    used: list[tuple[int, list[Split]]] = []
    for i, wanted in enumerate(datasets):
        name, _, number = wanted.partition("@")
        if name in [other.partition("@")[0] for other in datasets[:i]]:
            faults.append(Fault(pointer_to("datasets", i), f"dataset '{name}' is named twice"))
            continue
        try:
            version = datasets_service.get(session, name, int(number) if number else None)
        except NotFound as error:
            faults.append(Fault(pointer_to("datasets", i), error.detail))
            continue
        seen.update(label for split in version.splits for label in split.labels)
        labelled = [split for split in version.splits if checks.labelled(split)]
        if not labelled:
            detail = f"dataset '{name}' labels none of the tasks {sorted(by_name)}"
            faults.append(Fault(pointer_to("datasets", i), detail))
        used.append((i, labelled))
    faults += [
        Fault(pointer_to("remap_labels", label), f"none of the datasets has labels '{label}'")
        for label in remap
        if label not in seen
    ]
    checks.fit([split for _, splits in used for split in splits])
    for check in (checks.data_faults, checks.task_faults):
        if not faults:
            faults = [
                Fault(pointer_to("datasets", i), detail)
                for i, splits in used
                for detail in dict.fromkeys(detail for split in splits for detail in check(split))
            ]
    if faults:
        raise Invalid(faults[0].detail, faults)
    return Job(
        tasks=[checks.resolved(spec.name) for spec in specs],
        splits=[checks.pinned(split) for _, splits in used for split in splits],
        fields=checks.field_refs(),
        preprocessing=store_preprocessing(store, checks.preprocessing()),
        remap_labels={label: task for label, task in remap.items() if task is not None},
    )


@dataclass
class _Checks:
    """Holds splits against the tasks that they label, and fits the fields on the way."""

    store: ArtifactStore
    encoders: SentenceEncoders
    specs: dict[str, TaskSpec]
    reports: dict[str, TaskReport]
    needed: FieldShapes
    limits: Limits
    given: Preprocessing
    train_split: str | None
    remap: dict[str, str | None]
    fitted: dict[str, FittedField] = field(default_factory=dict[str, FittedField])
    class_names: dict[str, list[bool | int | str]] = field(default_factory=dict[str, Any])
    target_scales: dict[str, TargetScale] = field(default_factory=dict[str, TargetScale])
    _resolved: dict[str, TaskSpec] = field(default_factory=dict[str, TaskSpec])
    _checked: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])
    _misfits: list[str] = field(default_factory=list[str])
    _summaries: dict[tuple[str, str], PartSummary] = field(default_factory=dict[tuple[str, str], PartSummary])

    def labelled(self, split: Split) -> dict[str, str]:
        """Return the split's label sets that count, each with the task that it is for."""
        tasks = {label: self.remap.get(label, label) for label in split.labels}
        return {label: task for label, task in tasks.items() if task is not None and task in self.specs}

    def fit(self, splits: Sequence[Split]) -> None:
        """Fit every field that is not given: on the train splits, and on no other row."""
        for name in self.needed:
            holders = [split for split in splits if name in split.fields and self._reads(split, name)]
            given = self.given.fields.get(name)
            if given is not None and (self.train_split is None or _suits(given, name, holders)):
                self.fitted[name] = given
            elif holders:
                self._fit(name, holders)
        for task in self.specs:
            known = [s.labels[label] for s in splits for label, of in self.labelled(s).items() if of == task]
            lists = [names for label in known if (names := label["class_names"]) is not None]
            before = self.given.class_names.get(task)
            if lists or before:
                self.class_names[task] = _common(lists, before, is_fixed=self.train_split is None)
            if self.specs[task].target_scaling == "standard":
                scale = self.given.target_scales.get(task) or self._target_scale(task, splits)
                if scale is not None:
                    self.target_scales[task] = scale

    def _target_scale(self, task: str, splits: Sequence[Split]) -> TargetScale | None:
        """Return where a task's training labels lie; None where there are none, so that a later training may say."""
        found = [
            self._summary(split).labels[label].moments
            for split in splits
            if split.name == self.train_split
            for label, of in self.labelled(split).items()
            if of == task
        ]
        moments = merge_moments(found) if found else []
        if moments is None:
            self._misfits.append(
                f"the scale of task '{task}' is not known: its labels are of several shapes, or of very many values, or"
                " the dataset is older than such scales and must be registered anew"
            )
        if not moments or not any(of_value.n for of_value in moments):
            return None
        return TargetScale.of(
            [of_value.mean for of_value in moments], [of_value.deviation for of_value in moments]
        )

    def _fit(self, name: str, holders: Sequence[Split]) -> None:
        plan = _plan(holders[0], name)
        train = [split for split in holders if split.name == self.train_split and _plan(split, name) == plan]
        if not train and not _needs_no_fit(plan):
            self._misfits.append(
                f"no split '{self.train_split}' has field '{name}': there is nothing to fit its encoding on"
            )
            return
        found = [self._summary(split).fields[name] for split in train or holders]
        summaries = {c.name: merge_summaries([columns[c.name] for columns in found]) for c in plan.columns}
        self.fitted[name] = fit_field(plan, summaries, self.encoders.infos_for(plan.encoders))

    def _summary(self, split: Split) -> PartSummary:
        key = (split.dataset, split.name)
        if key not in self._summaries:
            self._summaries[key] = load_summary(self.store, datasets_service.parts_of(split))
        return self._summaries[key]

    def data_faults(self, split: Split) -> Iterator[str]:
        """Yield what keeps a split's columns from being what the tasks read."""
        where = _where(split)
        yield from self._misfits
        for label, task in self.labelled(split).items():
            for name in self.reports[task].fields:
                yield from (f"{where} {fault}" for fault in self._field_faults(task, name, split))
            names, known = split.labels[label]["class_names"], self.class_names.get(task)
            if (names is None) != (known is None):
                forms = (_shown(names), _shown(known))
                yield f"{where} has the classes {forms[0]} for task '{task}', which are {forms[1]} elsewhere"
            elif (
                names is not None and known is not None and (unknown := [n for n in names if n not in known])
            ):
                yield f"{where} has the class {unknown[0]!r} for task '{task}', whose classes are {_shown(known)}"

    def task_faults(self, split: Split) -> Iterator[str]:
        """Yield what keeps a split's fields and labels from going through the tasks."""
        where = _where(split)
        for label, task in self.labelled(split).items():
            yield from (f"{where}: {fault}" for fault in self._label_faults(task, split.labels[label]))
            if self.specs[task].slices and label == task:
                yield from (
                    f"{where}: {fault}" for fault in slice_faults(self.store, self.specs[task], split)
                )

    def resolved(self, task: str) -> TaskSpec:
        """Return a task with the sizes filled in that come with the data.

        Raises:
            Invalid: If no dataset of the run has the fields that tell them.
        """
        if task not in self._resolved:
            try:
                self._resolved[task] = resolve_task(
                    self.specs[task], self._shapes(task), self.limits, self.target_scales.get(task, _UNSCALED)
                )
            except SpecError as error:
                detail = f"task '{task}': {error.faults[0].detail}"
                raise Invalid.at("/datasets", detail) from None
        return self._resolved[task]

    def pinned(self, split: Split) -> SplitRef:
        task_of = self.labelled(split)
        tasks = dict.fromkeys(task_of.values())
        sliced = [self.specs[task] for label, task in task_of.items() if label == task]
        return SplitRef(
            dataset=split.dataset,
            version=split.version,
            split=split.name,
            sha256=split.sha256,
            rows=split.rows,
            tasks=list(task_of),
            labels={label: self._label(task, split.labels[label]) for label, task in task_of.items()},
            fields=list(dict.fromkeys(name for task in tasks for name in self.reports[task].fields)),
            weights=split.weights["column"] if split.weights else None,
            slice_columns=slice_columns(sliced, split),
            parts=datasets_service.parts_of(split),
        )

    def _label(self, task: str, known: dict[str, Any]) -> LabelRef:
        # Classes are numbered as in the whole run, whichever of them this split's dataset has.
        codec = fit_label(LabelSpec.model_validate(known["spec"]), self.class_names.get(task))
        return LabelRef(codec=codec, dtype=known["dtype"], shape=known["shape"])

    def field_refs(self) -> dict[str, FieldRef]:
        """Return all fields; predictions need to know those, too, whose tasks none of the datasets labels."""
        return {
            name: FieldRef(shape=shape.shape, dtype=shape.dtype, vocabulary=shape.vocabulary)
            for name, shape in (self.needed | self._fitted_shapes()).items()
        }

    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            fields=self.fitted, class_names=self.class_names, target_scales=self.target_scales
        )

    def _reads(self, split: Split, name: str) -> bool:
        return any(name in self.reports[task].fields for task in self.labelled(split).values())

    def _fitted_shapes(self) -> FieldShapes:
        return {
            name: FieldShape(field.shape, self.needed[name].dtype, vocabulary=field.vocabulary)
            for name, field in self.fitted.items()
        }

    def _shapes(self, task: str) -> FieldShapes:
        return {
            name: shape for name, shape in self._fitted_shapes().items() if name in self.reports[task].fields
        }

    def _field_faults(self, task: str, name: str, split: Split) -> Iterator[str]:
        known, dtype = split.fields.get(name), self.needed[name].dtype
        if known is None:
            yield f"labels task '{task}' but lacks the field '{name}' that it reads"
            return
        fitted = self.fitted.get(name)
        if fitted is None:
            return
        if _plan(split, name) != fitted.plan:
            yield f"has field '{name}' made of other columns or options than elsewhere"
        elif known["shape"] != fitted.shape and _plan(split, name).columns[0].type == "tensor":
            yield f"has field '{name}' of shape {known['shape']}, which is {fitted.shape} elsewhere"
        if dtype == "int64" and known["dtype"] != "int64":
            yield f"has fractions in field '{name}', which an embedding reads: it takes integers"
        if dtype == "float32" and fitted.vocabulary is not None:
            yield f"has indices in field '{name}', which an embedding must read before anything else"

    def _label_faults(self, task: str, labels: dict[str, Any]) -> list[str]:
        form = FieldSpec(shape=labels["shape"], dtype=labels["dtype"])
        key = (task, form.model_dump_json())
        if key not in self._checked:
            try:
                resolved = self._resolved[task] = resolve_task(
                    self.specs[task], self._shapes(task), self.limits, self.target_scales.get(task, _UNSCALED)
                )
                self.reports[task] = check_task(resolved, self.limits, self._shapes(task), form)
                self._checked[key] = []
            except SpecError as error:
                self._checked[key] = [f"task '{task}': {fault.detail}" for fault in error.faults]
        return self._checked[key] or list(self._class_faults(task, labels))

    def _class_faults(self, task: str, labels: dict[str, Any]) -> Iterator[str]:
        lowest, highest, names = labels["lowest"], labels["highest"], self.class_names.get(task)
        output_shape = self.reports[task].output_shape
        if output_shape is None:
            return
        classes = LOSSES.build(self.specs[task].loss).classes(output_shape)
        if classes is None:
            if names and names != list(range(len(names))):
                yield (
                    f"task '{task}' answers values, but its labels are the classes {_shown(names)}: where they are"
                    " values, the dataset must say that the type of the labels is number"
                )
        elif names and len(names) != classes:
            yield f"task '{task}' answers {classes} classes, but its labels have {len(names)}: {_shown(names)}"
        elif not names and lowest is not None and (lowest < 0 or highest >= classes):
            wrong = lowest if lowest < 0 else highest
            yield f"task '{task}' has classes 0 to {classes - 1}, but a label is {wrong}"


def _where(split: Split) -> str:
    return f"split '{split.name}' of dataset '{split.dataset}'"


def _plan(split: Split, name: str) -> FieldPlan:
    return FieldPlan(columns=split.fields[name]["columns"])


def _needs_no_fit(plan: FieldPlan) -> bool:
    return all(column.type == "tensor" and column.scale == "none" for column in plan.columns)


def _suits(given: FittedField, name: str, holders: Sequence[Split]) -> bool:
    """Say whether what was fitted before is the same field still."""
    return all(
        _plan(split, name) == given.plan
        and (given.plan.columns[0].type != "tensor" or split.fields[name]["shape"] == given.shape)
        for split in holders
    )


def _common(
    lists: Sequence[list[bool | int | str]], before: list[bool | int | str] | None, *, is_fixed: bool
) -> list[bool | int | str]:
    """Return the classes of a task in a run: the first list that holds all others, else all of them sorted."""
    if is_fixed and before is not None:
        return before
    every = {name for names in lists for name in names}
    for names in [*([before] if before else []), *lists]:
        if every <= set(names):
            return names
    return sorted(every, key=lambda name: (isinstance(name, str), name))


def _shown(names: Sequence[object] | None) -> str:
    if names is None:
        return "plain numbers"
    more = f" … {len(names)} in all" if len(names) > 8 else ""
    return f"[{', '.join(map(repr, names[:8]))}{more}]"
