"""What a card says of a version's tasks: paths, modules, the columns behind their fields, slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch

from app.cards.schemas import (
    CardColumnOut,
    CardFieldOut,
    CardModuleOut,
    CardTaskOut,
    SliceOut,
    SliceScoreOut,
    StepOut,
    WorstSliceOut,
)
from app.db.tables import Score, Version
from app.runs.preprocessing import Preprocessing
from mtl_core.building.budget import count_parameters
from mtl_core.building.tasks import build_tasks
from mtl_core.scoring.metrics import METRICS
from mtl_core.slicing.names import ind_task, pred_task, whole_slice, with_base
from mtl_core.specs import TaskSpec
from mtl_core.task import INPUT

Scored = Mapping[str, Score]
"""A version's newest scores, by ``task/dataset/split/metric``."""

Of = Literal["answers", "membership", "slice head"]
"""What of a slice was scored."""

# What may be as long as a language has words.
_VOCABULARIES = ("values", "words")


def fields_of(version: Version, preprocessing: Preprocessing) -> list[CardFieldOut]:
    """Return the fields that a version reads, each with the raw columns that it is made of."""
    fields: list[CardFieldOut] = []
    for name, known in version.fields.items():
        fitted = preprocessing.fields.get(name)
        columns: list[CardColumnOut] = []
        for column in fitted.columns if fitted else []:
            told = column.model_dump(mode="json", exclude={"name", "type"})
            told |= {key: len(told[key]) for key in _VOCABULARIES if key in told}
            columns.append(CardColumnOut(column=column.name, type=column.type, fitted=told))
        fields.append(
            CardFieldOut(
                name=name,
                shape=known["shape"],
                dtype=known["dtype"],
                vocabulary=known.get("vocabulary"),
                columns=columns,
            )
        )
    return fields


def modules_of(specs: Sequence[TaskSpec]) -> list[CardModuleOut]:
    """Return the modules of some tasks, those that their slices bring among them."""
    # Counted without their weights, which takes no memory.
    with torch.device("meta"):
        built = build_tasks(specs)
    used_by: dict[str, list[str]] = {}
    of_spec = iter(specs)
    spec = next(of_spec)
    for task in built:
        for name in task.module_pool:
            if spec.name not in used_by.setdefault(name, []):
                used_by[name].append(spec.name)
        # Those that slices make of a task come before it.
        if task.name == spec.name:
            spec = next(of_spec, spec)
    parameters = count_parameters(built)
    return [
        CardModuleOut(name=name, parameters=parameters[name], used_by=tasks)
        for name, tasks in used_by.items()
    ]


def task_of(
    spec: TaskSpec,
    modules: Sequence[CardModuleOut],
    class_names: list[str | int | bool] | None,
    scored: Scored,
    judging: Sequence[str],
) -> CardTaskOut:
    """Return what a card says of a task.

    Args:
        spec: The task, every size filled in.
        modules: Those of the version.
        class_names: Names of its classes in order; None where it has none.
        scored: The version's scores.
        judging: Splits on which its slices are compared; the first that has scores of them counts.
    """
    of_task = [module for module in modules if spec.name in module.used_by]
    slices = _slices_of(spec, scored)
    written_out = spec.written_out()
    read = [i[1] for op in spec.op_sequence for i in op.inputs if not isinstance(i, str) and i[0] == INPUT]
    return CardTaskOut(
        name=spec.name,
        kind=spec.kind,
        fields=[str(name) for name in dict.fromkeys(read)],
        loss=spec.loss,
        output=spec.output,
        metrics=spec.metrics,
        target_scaling=written_out["target_scaling"],
        class_names=class_names,
        path=[
            StepOut(name=op["name"], module=op["module_name"], inputs=op["inputs"])
            for op in written_out["op_sequence"]
        ],
        own_parameters=sum(module.parameters for module in of_task if len(module.used_by) == 1),
        shared_parameters=sum(module.parameters for module in of_task if len(module.used_by) > 1),
        slices=slices,
        worst_slice=_worst(spec, slices, scored, judging),
    )


def slice_label_names(spec: TaskSpec) -> set[str]:
    """Return the names under which a task's slices are scored."""
    return {label for part in _names_of(spec) for label in _label_sets(spec, part)}


def _names_of(spec: TaskSpec) -> list[str]:
    names = [part.name for part in spec.slices]
    return with_base(names) if names else []


def _label_sets(spec: TaskSpec, part: str) -> dict[str, Of]:
    return {
        whole_slice(spec.name, part): "answers",
        ind_task(spec.name, part): "membership",
        pred_task(spec.name, part): "slice head",
    }


def _slices_of(spec: TaskSpec, scored: Scored) -> list[SliceOut]:
    where = {part.name: part.where.model_dump(mode="json", exclude_none=True) for part in spec.slices}
    return [
        SliceOut(name=part, where=where.get(part), scores=list(_scores_of(_label_sets(spec, part), scored)))
        for part in _names_of(spec)
    ]


def _scores_of(label_sets: Mapping[str, Of], scored: Scored) -> Iterator[SliceScoreOut]:
    for score in scored.values():
        if (of := label_sets.get(score.task)) is not None:
            yield SliceScoreOut(
                dataset=score.dataset,
                split=score.split,
                metric=score.metric,
                value=score.value,
                reason=score.reason,
                n=score.n,
                of=of,
            )


def _worst(
    spec: TaskSpec, slices: Sequence[SliceOut], scored: Scored, judging: Sequence[str]
) -> WorstSliceOut | None:
    """Return the slice with the worst answers by the first metric that tells better from worse."""
    metrics = [METRICS.build(metric).higher_is_better for metric in spec.metrics]
    names = [METRICS.arguments(metric)[0] for metric in spec.metrics]
    told = next((pair for pair in zip(names, metrics, strict=True) if pair[1] is not None), None)
    if told is None:
        return None
    metric, higher_is_better = told
    for split in judging:
        found = [
            (score.value if higher_is_better else -score.value, part.name, score)
            for part in slices
            for score in part.scores
            if (score.split, score.metric, score.of) == (split, metric, "answers") and score.value is not None
        ]
        if found:
            _, name, score = min(found, key=lambda entry: entry[0])
            whole = scored.get(f"{spec.name}/{score.dataset}/{split}/{metric}")
            return WorstSliceOut(
                slice=name,
                dataset=score.dataset,
                split=split,
                metric=metric,
                value=score.value or 0.0,
                n=score.n,
                whole=whole.value if whole else None,
            )
    return None
