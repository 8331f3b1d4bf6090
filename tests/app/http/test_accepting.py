from __future__ import annotations

import pytest

from app.http.accepting import prefers

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html, application/json", False),
        ("text/html;q=0", False),
        ("*/*, text/html;q=0.5", False),
        ("application/*, text/html;q=0.9", False),
        ("text/html;q=much", False),
        ("text/html;q=nan", False),
        (BROWSER, True),
        ("TEXT/HTML", True),
        ("text/*", True),
        ("text/html;level=1;q=0.3, application/json;q=0.2", True),
        ("text/html , */*; q=0.1", True),
    ],
)
def test_a_page_is_sent_to_who_prefers_one(accept: str | None, expected: bool) -> None:
    assert prefers(accept, "text/html", "application/json") is expected
