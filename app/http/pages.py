"""Lists in pages: a page starts after the key that its cursor carries, so that rows added meanwhile shift nothing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.problems import Invalid
from app.wire import Out

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Page(Out, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    next_cursor: str | None
    """Where the next page starts; null on the last one."""


class Paging:
    """Which part of a list is wanted."""

    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most items to answer.")] = 100,
        cursor: Annotated[
            str | None, Query(max_length=256, description="`next_cursor` of the page before.")
        ] = None,
    ) -> None:
        self.limit = limit
        self.cursor = cursor

    def page(
        self,
        session: Session,
        statement: Select[Row],
        key: InstrumentedAttribute[Any],
        as_item: Callable[[Row], Item],
        *,
        newest_first: bool = False,
    ) -> Page[Item]:
        """Return the wanted part of a statement's rows in the order of a unique column."""
        if self.cursor is not None:
            after = _decode(self.cursor, key.type.python_type)
            statement = statement.where(key < after if newest_first else key > after)
        statement = statement.order_by(key.desc() if newest_first else key.asc())
        rows = list(session.scalars(statement.limit(self.limit + 1)))
        items = rows[: self.limit]
        next_cursor = _encode(getattr(items[-1], key.key)) if len(rows) > self.limit else None
        return Page(items=[as_item(row) for row in items], next_cursor=next_cursor)


PagingDep = Annotated[Paging, Depends()]


def _encode(key: str | int) -> str:
    return base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def _decode(cursor: str, key_type: type) -> str | int:
    try:
        key = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        if not _KEY.fullmatch(key):
            raise ValueError(key)
        value = key_type(key)
        if isinstance(value, int) and not 0 <= value < 2**63:
            raise ValueError(key)
    except (ValueError, binascii.Error):
        detail = "this is no cursor of this list"
        raise Invalid(detail, [{"parameter": "cursor", "detail": detail}]) from None
    return value
