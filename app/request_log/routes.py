"""HTTP of the request log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime

from app.db.tables import LoggedRequest
from app.http.endpoint import Endpoint
from app.http.pages import Page, PagingDep
from app.http.resources import ModelPath, SessionDep
from app.models import service as models
from app.problems import problem_responses
from app.request_log import service
from app.request_log.recording import RequestLog
from app.request_log.schemas import LoggedRequestOut

router = APIRouter(prefix="/models/{model}/requests", tags=["predictions"], route_class=Endpoint)


def _log_of(request: Request) -> RequestLog:
    return request.app.state.request_log


@router.get("", summary="List logged requests", responses=problem_responses(404, 422))
def list_requests(
    model: ModelPath,
    session: SessionDep,
    paging: PagingDep,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    since: Annotated[AwareDatetime | None, Query(description="Answered then or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Answered before.")] = None,
) -> Page[LoggedRequestOut]:
    """List the predictions of a model that were logged, newest first; they are written within a second or so.

    A model's `serving.log_share` says how many are; by default none.
    """
    statement = service.requests_of(models.get(session, model).name, version, since, until)
    return paging.page(
        session, statement, LoggedRequest.id, LoggedRequestOut.model_validate, newest_first=True
    )


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    summary="Remove logged requests",
    responses=problem_responses(404, 422),
)
def delete_requests(
    model: ModelPath, session: SessionDep, request_log: Annotated[RequestLog, Depends(_log_of)]
) -> None:
    """Remove all logged requests of a model, also those that this server has answered but not yet written."""
    # Before the transaction begins: SQLite has room for one that writes.
    request_log.flush()
    service.remove_all(session, models.get(session, model).name)
