"""The rules for model cards: everything that rows and artifacts say of a version, and what they cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.calibrations.service import KIND as CALIBRATION
from app.calibrations.service import calibration_of
from app.cards.schemas import (
    CardDataOut,
    CardLabelsOut,
    CardOut,
    CardScoreOut,
    CardTaskOut,
    MadeByOut,
    StartOut,
    TrainingOut,
)
from app.cards.tasks import Scored, fields_of, modules_of, slice_label_names, task_of
from app.db.tables import Run, Split, Version
from app.models.service import aliases_of
from app.runs.initial import WeightsRef
from app.runs.job import SplitRef
from app.runs.preprocessing import load_preprocessing
from app.scores.service import newest_scores
from app.storage.artifacts import ArtifactStore
from mtl_core.specs import TaskSpec

_TEST, _VALID = "test", "valid"


class _Done(BaseModel):
    """What a card tells of a job; runs of some kinds have no more than a part of it."""

    splits: list[SplitRef] = []
    seed: int | None = None
    init_from: int | None = None
    weights: list[WeightsRef] = []
    frozen: list[str] = []


def card_of(session: Session, store: ArtifactStore, version: Version) -> CardOut:
    """Return a version's card.

    Raises:
        DamagedArtifactError: If its preprocessing is not what it should be.
    """
    specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
    preprocessing = load_preprocessing(store, version.preprocessing)
    scored = newest_scores(session, version.model, version.number)
    ids = {version.run, *(score.run for score in scored.values())}
    runs = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(ids)).order_by(Run.id))}
    jobs = {name: _Done.model_validate(run.job) for name, run in runs.items()}
    maker, made = runs[version.run], jobs[version.run]
    settings: dict[str, Any] | None = maker.request.get("trainer")
    modules = modules_of(specs)
    judging = [(settings or {}).get(f"{name}_split", name) for name in (_TEST, _VALID)]
    tasks = [
        task_of(spec, modules, preprocessing.class_names.get(spec.name), scored, judging) for spec in specs
    ]
    data = [
        _data_of(session, runs[name], ref)
        for name in sorted(runs, key=lambda name: (name != version.run, name))
        for ref in jobs[name].splits
    ]
    scores = list(_scores_of(specs, scored, jobs))
    return CardOut(
        model=version.model,
        version=version.number,
        aliases=aliases_of(session, version),
        created_at=version.created_at,
        made_by=MadeByOut(
            run=maker.id,
            kind=maker.kind,
            client=maker.client or None,
            search=maker.parent,
            init_from=made.init_from,
            started_at=maker.started_at,
            finished_at=maker.finished_at,
        ),
        starts_from=[StartOut.model_validate(ref) for ref in made.weights if ref.modules],
        parameters=version.parameters,
        bytes=version.bytes,
        sha256=version.sha256,
        data=data,
        fields=fields_of(version, preprocessing),
        tasks=tasks,
        modules=modules,
        training=TrainingOut(
            seed=made.seed if made.seed is not None else settings.get("seed"),
            train=maker.request.get("train", "all"),
            frozen=made.frozen,
            settings=settings,
        )
        if settings is not None
        else None,
        scores=scores,
        verdict=None if maker.verdict is None else {"run": maker.id, **maker.verdict},
        calibration=calibration_of(maker) if maker.kind == CALIBRATION else None,
        limits=list(_limits(maker, tasks, data, scores)),
    )


def _data_of(session: Session, run: Run, ref: SplitRef) -> CardDataOut:
    split = session.get(Split, (ref.dataset, ref.version, ref.split))
    missing, labels = None, None
    if split is None:
        missing = "it was removed since"
    elif split.sha256 != ref.sha256:
        missing = "the data of that name is another now"
    else:
        labels = {
            name: CardLabelsOut(
                labelled=label["labelled"], unlabelled=split.rows - label["labelled"], counts=label["counts"]
            )
            for name in ref.tasks
            if (label := split.labels.get(name))
        }
    return CardDataOut(
        dataset=ref.dataset,
        version=ref.version,
        split=ref.split,
        used=_use_of(run, ref),
        run=run.id,
        rows=ref.rows,
        sha256=ref.sha256,
        labels=labels,
        missing=missing,
    )


def _use_of(
    run: Run, ref: SplitRef
) -> Literal["trained on", "watched", "calibrated on", "scored on", "read"]:
    settings = run.request.get("trainer")
    if run.kind == CALIBRATION:
        return "calibrated on" if ref.split == run.request["split"] else "scored on"
    if settings is None:
        return "scored on" if run.kind == "score" else "read"
    if ref.split == settings.get("train_split", "train"):
        return "trained on"
    return "watched" if ref.split == settings.get("valid_split", _VALID) else "scored on"


def _scores_of(
    specs: Sequence[TaskSpec], scored: Scored, jobs: Mapping[str, _Done]
) -> Iterator[CardScoreOut]:
    """Yield the scores that stand neither with a slice nor in the verdict, whose metrics have a colon."""
    of_slices = {name for spec in specs for name in slice_label_names(spec)}
    for score in scored.values():
        if score.task in of_slices or ":" in score.metric:
            continue
        versions = [
            ref.version
            for ref in jobs[score.run].splits
            if (ref.dataset, ref.split) == (score.dataset, score.split)
        ]
        yield CardScoreOut(
            task=score.task,
            dataset=score.dataset,
            dataset_version=versions[0] if versions else None,
            split=score.split,
            metric=score.metric,
            value=score.value,
            reason=score.reason,
            n=score.n,
            run=score.run,
        )


def _limits(
    maker: Run,
    tasks: Sequence[CardTaskOut],
    data: Sequence[CardDataOut],
    scores: Sequence[CardScoreOut],
) -> Iterator[str]:
    """Yield what a card cannot say."""
    yield "What the model is meant for, and what it must not be used for, nobody told the service."
    yield (
        "Who or what the rows stand for, how they were collected, by what right, and whether they are like what the"
        " model will meet: the service knows rows and columns only."
    )
    if maker.kind == CALIBRATION:
        yield f"How the version was trained that was calibrated: the card of version {maker.job['init_from']} says so."
    elif "trainer" not in maker.request:
        yield "How the version was trained: it was not trained here, or not by a run that says so."
    if not data:
        yield "What data the version has seen: the run that made it read none."
    for part in data:
        if part.missing:
            name = f"{part.dataset}@{part.version}, split {part.split}"
            yield f"How {name}, is labelled: {part.missing}."
    looked_at = {
        (part.dataset, part.split) for part in data if part.used in ("trained on", "watched", "calibrated on")
    }
    unseen = {(part.dataset, part.split) for part in data if part.used == "scored on"} - looked_at
    for task in tasks:
        if not any(score.task == task.name and (score.dataset, score.split) in unseen for score in scores):
            yield f"How good task {task.name} is on data that its training did not look at: no such split was scored."
        if not task.slices:
            yield f"Where task {task.name} is worse than on the whole: it was given no slices."
    if any(score.value is None for score in scores):
        yield "Scores that are undefined say why, but stand for no value."
    if scores and maker.verdict is None:
        yield "How far scores would differ on another sample of the same kind: they have no intervals."
