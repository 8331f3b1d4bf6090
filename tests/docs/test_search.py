"""The page on searches: its JSON is read by the service as it stands, and it names what there is."""

from __future__ import annotations

import json
import re
from typing import get_args

from app.searches.schemas import Choice, FloatRange, IntRange, PercentilePruner, SearchIn
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "search.md").read_text()


def test_the_searches_shown_are_read() -> None:
    search, pruner = (json.loads(block.text) for block in blocks(PAGE) if block.language == "json")
    assert set(search) == set(SearchIn.model_fields)
    SearchIn.model_validate(search | {"pruner": PercentilePruner.model_validate(pruner).model_dump()})
    assert set(pruner) == set(PercentilePruner.model_fields)


def test_every_member_of_a_dimension_is_shown() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, flags=re.MULTILINE)}
    for dimension in (FloatRange, IntRange, Choice):
        fields = dict(dimension.model_fields)
        (kind,) = get_args(fields.pop("type").annotation)
        said = [
            f"`{name}`" if field.is_required() else f"`{name}` `{json.dumps(field.default)}`"
            for name, field in fields.items()
        ]
        assert rows.pop(kind) == ", ".join(said)
    assert not rows
