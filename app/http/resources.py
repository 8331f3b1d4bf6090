"""What endpoints are given: the process's resources, the request's session, and parameters that many of them take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request
from fastapi.openapi.models import Example
from sqlalchemy.orm import Session

from app.db.session import Database
from app.http.receiving import Intake
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core.specs import NAME_PATTERN


@dataclass(frozen=True)
class Resources:
    """What a server process holds for all of its requests."""

    settings: Settings
    db: Database
    store: ArtifactStore
    encoders: SentenceEncoders
    is_stopping: Callable[[], bool]
    intake: Intake


def resources_of(request: Request) -> Resources:
    """Return the resources of the process that serves a request."""
    return request.app.state.resources


def _session_of(request: Request) -> Session:
    return request.state.session


def _client_of(
    request: Request,
    client: Annotated[
        str | None,
        Header(
            alias="X-Taskloom-Client",
            pattern=NAME_PATTERN,
            description="Who asks: clients take turns. Default: the address that the request comes from.",
        ),
    ] = None,
) -> str:
    return client or (request.client.host if request.client else "")


ResourcesDep = Annotated[Resources, Depends(resources_of)]
SessionDep = Annotated[Session, Depends(_session_of)]
ClientDep = Annotated[str, Depends(_client_of)]


def _name_in_path(example: str, description: str | None = None) -> Any:
    shown = {example: Example(value=example)}
    return Path(pattern=NAME_PATTERN, description=description, openapi_examples=shown)


TaskPath = Annotated[str, _name_in_path("circle_task")]
DatasetPath = Annotated[str, _name_in_path("circleDataset")]
SplitPath = Annotated[str, _name_in_path("train")]
ModelPath = Annotated[str, _name_in_path("shapes")]
VersionPath = Annotated[str, _name_in_path("latest", "A version's number, `latest`, `default` or an alias.")]
AliasPath = Annotated[str, _name_in_path("champion")]
RunPath = Annotated[str, _name_in_path("run_01KD8Z6Y0000000000000000AB", "As `POST …/runs` answered it.")]
NameQuery = Annotated[str | None, Query(pattern=NAME_PATTERN)]
