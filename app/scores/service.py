"""Scores in the database, keyed as ``task/dataset/split/metric``."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import tables
from mtl_core.scoring.scorer import Score


def add_scores(
    session: Session, run: tables.Run, scores: Iterable[Score], version: int | None = None
) -> None:
    """Store the scores that a run computed of a version; default: its own."""
    number = run.model_version if version is None else version
    assert number is not None
    session.add_all(
        tables.Score(
            model=run.model,
            version=number,
            run=run.id,
            task=score.task,
            dataset=score.dataset,
            split=score.split,
            metric=score.metric,
            value=score.value if math.isfinite(score.value) else None,
            reason=score.reason,
            n=score.n,
        )
        for score in scores
    )


def newest_scores(session: Session, model: str, version: int) -> dict[str, tables.Score]:
    """Return a version's scores by ``task/dataset/split/metric``; of scores with one key the newest counts."""
    rows = session.scalars(
        select(tables.Score)
        .where(tables.Score.model == model, tables.Score.version == version)
        .order_by(tables.Score.id)
    )
    return {f"{row.task}/{row.dataset}/{row.split}/{row.metric}": row for row in rows}


def scores_by_key(session: Session, model: str, version: int) -> dict[str, float | None]:
    """Return the values of a version's scores in the seed's flat form."""
    return {key: row.value for key, row in newest_scores(session, model, version).items()}
