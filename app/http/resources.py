"""What endpoints are given: the process's resources, the request's session, and parameters that many of them take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from sqlalchemy.orm import Session

from app.db.session import Database
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from mtl_core.specs import NAME_PATTERN


@dataclass(frozen=True)
class Resources:
    """What a server process holds for all of its requests."""

    settings: Settings
    db: Database
    store: ArtifactStore


def resources_of(request: Request) -> Resources:
    """Return the resources of the process that serves a request."""
    return request.app.state.resources


def _session_of(request: Request) -> Session:
    return request.state.session


ResourcesDep = Annotated[Resources, Depends(resources_of)]
SessionDep = Annotated[Session, Depends(_session_of)]

NamePath = Annotated[str, Path(pattern=NAME_PATTERN)]
NameQuery = Annotated[str | None, Query(pattern=NAME_PATTERN)]
RunPath = Annotated[str, Path(pattern=NAME_PATTERN, examples=["run_01KD8Z6Y0000000000000000AB"])]
