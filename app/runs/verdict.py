"""A verdict on sharing, on the service's side: what a client asks for, what speaks against it, and what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from app.db.tables import Run
from app.problems import Invalid, NotFound
from app.runs.job import Job
from app.runs.schemas import VerdictSettings
from app.runs.trainer_config import RunTrainerConfig
from mtl_core.scoring.scorer import Score
from mtl_core.sharing import Bootstrap, SharingVerdict


def bootstrap_of(run: Run, seed: int | None) -> Bootstrap | None:
    """Return how the intervals of a training's verdict are made; None where none was asked for.

    Args:
        run: The training.
        seed: The training's seed; None is taken as 0.
    """
    asked = run.request.get("verdict")
    if not asked:
        return None
    settings = VerdictSettings() if asked is True else VerdictSettings.model_validate(asked)
    return Bootstrap(settings.resamples, settings.confidence, seed or 0)


def check_verdict(job: Job, trainer: RunTrainerConfig) -> None:
    """Refuse a verdict where there is nothing to compare, or nothing to compare it on.

    Raises:
        Invalid: If fewer than two tasks are trained, or no data set has a split to judge one of them on.
    """
    trained = {task for ref in job.splits if ref.split == trainer.train_split for task in ref.tasks}
    if len(trained) < 2:
        detail = (
            f"a verdict on sharing compares tasks, and this training has {len(trained)}: train two or more"
        )
        raise Invalid.at("/verdict", detail)
    judging = (trainer.test_split, trainer.valid_split)
    if not any(ref.split in judging and trained & set(ref.tasks) for ref in job.splits):
        detail = (
            f"none of the datasets has a split '{judging[0]}' or '{judging[1]}' with labels of the trained tasks,"
            " which a verdict on sharing is judged on"
        )
        raise Invalid.at("/verdict", detail)


def verdict_scores(verdict: SharingVerdict) -> Iterator[Score]:
    """Yield what a verdict compares as scores: a metric's ``single``, ``gain``, ``gain_low`` and ``gain_high``.

    Each is called by the metric's name, a colon and what it is, as ``accuracy:gain``.
    """
    for judged in verdict.tasks:
        for row in judged.comparisons:
            values = {"single": row.single, "gain": row.gain, "gain_low": row.low, "gain_high": row.high}
            for what, value in values.items():
                yield Score(
                    task=judged.task,
                    dataset=row.dataset,
                    split=row.split,
                    metric=f"{row.metric}:{what}",
                    value=math.nan if value is None else value,
                    n=row.n,
                    reason=f"{row.metric} was undefined on {row.skipped} resamples"
                    if value is None
                    else None,
                )


def verdict_of(run: Run) -> Mapping[str, Any]:
    """Return a run's verdict on sharing.

    Raises:
        NotFound: If none was asked for, or the run is not over.
    """
    if run.verdict is not None:
        return run.verdict
    if not run.request.get("verdict"):
        raise NotFound(f"run '{run.id}' has no verdict on sharing: start a training with \"verdict\": true")
    raise NotFound(f"run '{run.id}' has no verdict on sharing yet: it is {run.status}, and has to succeed")
