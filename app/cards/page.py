"""A card as a page: one HTML file that needs nothing else, to be read on a phone, printed or kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from app.cards.schemas import CardOut


def page_of(card: CardOut) -> str:
    """Return a card's page; whatever clients named or wrote stands in it as text."""
    return _template().render(card=card, shown=_shown, leaves_of=_leaves)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.html")


def _shown(value: Any) -> str:
    """Return a JSON value as it stands on the page: a number rounded for the eye, with all of its digits beside it."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case int():
            return Markup(f'<data value="{value}">{value:,}</data>')
        case float():
            return Markup(f'<data value="{value!r}">{value:.4g}</data>')
        case str():
            return escape(value)
        case _:
            return escape(json.dumps(value, ensure_ascii=False))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what stands at the ends of nested objects, each by the names that lead to it."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
