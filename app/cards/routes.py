"""HTTP of model cards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import HTMLResponse

from app.cards import service
from app.cards.page import page_of
from app.cards.schemas import CardOut
from app.http.accepting import prefers
from app.http.endpoint import Endpoint
from app.http.resources import ModelPath, ResourcesDep, SessionDep, VersionPath
from app.models import service as models
from app.problems import problem_responses

router = APIRouter(prefix="/models/{model}/versions/{version}", tags=["models"], route_class=Endpoint)

_HTML = {"text/html": {"schema": {"type": "string"}}}
# A page that runs and fetches nothing, whatever should get into it.
_HEADERS = {"Vary": "Accept", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


@router.get(
    "/card",
    summary="Read a version's model card",
    response_model=CardOut,
    responses={200: {"content": _HTML}} | problem_responses(404, 422),
)
def get_card(
    model: ModelPath,
    version: VersionPath,
    session: SessionDep,
    resources: ResourcesDep,
    response: Response,
    accept: Annotated[
        str | None, Header(description="A page is answered where `text/html` is preferred to JSON.")
    ] = None,
) -> Any:
    """Return all that is known of a version: data, tasks, training, scores, slices, and what it cannot say.

    As JSON, or as a page for people where `Accept` prefers `text/html`, as that of a browser does.
    """
    found = models.find_version(session, models.get(session, model), version)
    card = service.card_of(session, resources.store, found)
    if prefers(accept, "text/html", "application/json"):
        return HTMLResponse(page_of(card), headers=_HEADERS)
    response.headers["Vary"] = "Accept"
    return card
