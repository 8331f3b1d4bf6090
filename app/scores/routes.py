"""HTTP of scores."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from app.db.tables import Score
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import ModelPath, NameQuery, SessionDep, VersionPath
from app.models import service as models
from app.problems import problem_responses
from app.scores.schemas import ScoreOut
from app.scores.service import scores_by_key

# A task's name, or that of one of its slices.
_LABEL_SET_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,299}$"
# A metric's name, or what a verdict on sharing says of it.
_METRIC_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"

router = APIRouter(tags=["scores"], route_class=Endpoint)


@router.get("/scores", summary="List scores", responses=problem_responses(422))
def list_scores(
    session: SessionDep,
    paging: PagingDep,
    model: NameQuery = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    run: NameQuery = None,
    task: Annotated[str | None, Query(pattern=_LABEL_SET_PATTERN)] = None,
    dataset: NameQuery = None,
    split: NameQuery = None,
    metric: Annotated[str | None, Query(pattern=_METRIC_PATTERN)] = None,
) -> Page[ScoreOut]:
    """List scores in the order they were computed, narrowed by any of their parts."""
    wanted = {
        Score.model: model,
        Score.version: version,
        Score.run: run,
        Score.task: task,
        Score.dataset: dataset,
        Score.split: split,
        Score.metric: metric,
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    return paging.page(session, select(Score).where(*conditions), Score.id, ScoreOut.model_validate)


@router.get(
    "/models/{model}/versions/{version}/scores",
    summary="Read a version's scores",
    responses=problem_responses(404, 422),
)
def get_version_scores(
    model: ModelPath, version: VersionPath, session: SessionDep
) -> dict[str, float | None]:
    """Return a version's scores by `task/dataset/split/metric`."""
    found = models.find_version(session, models.get(session, model), version)
    return scores_by_key(session, model, found.number)
