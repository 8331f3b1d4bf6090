"""Conditional requests: ``If-Match`` on what changes or removes a resource."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header
from pydantic import BaseModel

from app.http.endpoint import entity_tag, tag_matches
from app.problems import PreconditionFailed


class IfMatch:
    """The request's ``If-Match`` header."""

    def __init__(
        self,
        if_match: Annotated[
            str | None, Header(description="Go on only if the resource's ETag is still this one.")
        ] = None,
    ) -> None:
        self._wanted = if_match

    def check(self, current: Callable[[], BaseModel]) -> None:
        """Refuse to go on where the resource is no longer the one that the client saw.

        Args:
            current: Returns the resource as its ``GET`` would answer now; called only where there is such a header.

        Raises:
            PreconditionFailed: If its ETag is none of those in the header.
        """
        if self._wanted is None:
            return
        tag = entity_tag(current().model_dump(mode="json"))
        if not tag_matches(tag, self._wanted):
            raise PreconditionFailed(f"the resource has changed: its ETag is now {tag}")


IfMatchDep = Annotated[IfMatch, Depends()]
