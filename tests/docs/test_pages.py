"""What the pages say of settings, endpoints and one another holds; generated pages are up to date."""

from __future__ import annotations

import json
import re
import runpy
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from tests.docs.pages import PAGES, README, ROOT, blocks, code_spans, section

HTTP = ROOT / "docs" / "http.md"
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
_ENDPOINT = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S+)")
_VARIABLE = re.compile(r"TASKLOOM_[A-Z]\w*")
_MAX_DECISION_LINES = 40

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("name", ["settings.md", "catalogue.md", "options.md"])
def test_generated_page_is_up_to_date(name: str) -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    assert (ROOT / "docs" / name).read_text() == generated[name], "run: python docs/generate.py"


@pages
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pages
def test_named_variables_are_settings(page: Path) -> None:
    known = {f"TASKLOOM_{name.upper()}" for name in Settings.model_fields}
    assert set(_VARIABLE.findall(page.read_text())) <= known


@pages
def test_named_endpoints_exist(page: Path) -> None:
    named = {match.groups() for span in code_spans(page) if (match := _ENDPOINT.fullmatch(span))}
    paths = _openapi()["paths"]
    known = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    assert named <= known


def test_statuses_are_those_of_the_endpoints() -> None:
    paths = _openapi()["paths"]
    answered = {
        status
        for operations in paths.values()
        for operation in operations.values()
        for status in operation["responses"]
    }
    listed = set(re.findall(r"^\| `(\d{3})` ", section(HTTP, "Statuses"), flags=re.MULTILINE))
    assert answered <= listed
    # What no operation declares, because it may come from any of them.
    assert listed - answered <= {"304", "405", "500"}
    assert all(HTTPStatus(int(status)) for status in listed)


def test_shown_problem_has_the_shape_of_problems() -> None:
    (shown,) = blocks(section(HTTP, "Errors"))
    problem = _openapi()["components"]["schemas"]["ProblemOut"]
    assert list(json.loads(shown.text)) == list(problem["properties"])


def test_defaults_in_the_readme_are_those_of_the_settings() -> None:
    rows = re.findall(
        r"^\| `TASKLOOM_(\w+)`(?:, `TASKLOOM_(\w+)`)? \| (.+?) \|",
        section(README, "Settings, PostgreSQL, containers"),
        flags=re.MULTILINE,
    )
    shown = {
        name.lower(): value
        for *names, defaults in rows
        for name, value in zip(filter(None, names), re.findall(r"`(.+?)`", defaults), strict=False)
    }
    assert {"host", "port", "data_dir", "worker_slots"} <= set(shown)
    assert shown == {name: str(Settings.model_fields[name].default) for name in shown}


def test_decisions_are_short_and_tell_what_would_change_them() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in decisions] == [f"{i + 1:04}" for i in range(len(decisions))]
    for page in decisions:
        text = page.read_text()
        assert len(text.splitlines()) <= _MAX_DECISION_LINES
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert headings == ["Context", "Choice", "Turned down", "What would change our mind"]


@cache
def _openapi() -> dict[str, Any]:
    return create_app(Settings()).api.openapi()
