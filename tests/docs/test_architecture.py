"""What docs/architecture.md names is there, and what is there it names."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

from tests.docs.pages import PAGES, ROOT, code_spans

PAGE = ROOT / "docs" / "architecture.md"
_PLACE = re.compile(r"(?P<path>[\w./-]+(?:/|\.(?:py|toml|md)))(?::(?P<name>[A-Za-z_][\w.]*))?")
_FEATURE_ROOMS = {"routes.py", "service.py", "schemas.py"}


def _places() -> list[tuple[str, str | None]]:
    matches = [
        match
        for page in PAGES
        if page.is_relative_to(ROOT / "docs")
        for span in code_spans(page)
        if (match := _PLACE.fullmatch(span)) and not span.startswith(("/", "http"))
    ]
    return sorted({(m["path"], m["name"]) for m in matches if m["path"] not in _FEATURE_ROOMS}, key=str)


@pytest.mark.parametrize(("path", "name"), _places())
def test_named_files_and_functions_exist(path: str, name: str | None) -> None:
    place = ROOT / path
    assert place.is_dir() if path.endswith("/") else place.is_file()
    if name:
        assert name in _definitions(place.read_text())


def test_every_room_is_in_the_plan() -> None:
    named = set(code_spans(PAGE))
    rooms = [
        f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}"
        for package in ("app", "mtl_core")
        for path in (ROOT / package).iterdir()
        if path.is_dir() or (package == "app" and path.suffix == ".py")
    ]
    assert {room for room in rooms if "__" not in room} <= named


def test_every_import_contract_is_named() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = " ".join(PAGE.read_text().split())
    features = "uploads, datasets, models, runs, searches, cards, scores, predictions, request_log, "
    features += "open_inference, batch_predictions, calibrations, exports"
    assert f"**The wire shapes of tasks are its own**, and so for {features}" in text
    floors = next(c for c in contracts if c["name"] == "app is built in floors")["layers"]
    sentence = text.partition("**app is built in floors**")[2].partition(". ")[0]
    named = re.findall(r"`(\w+)`", sentence)
    assert named == [room for floor in floors if ":" not in floor for room in floor.split(" | ")]
    by_feature = {f"The wire shapes of {feature} are its own" for feature in features.split(", ")}
    assert [
        c["name"] for c in contracts if c["name"] not in by_feature and f"**{c['name']}**" not in text
    ] == []


def _definitions(source: str) -> set[str]:
    """Return the functions and classes of a module, methods as ``Class.method``."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{child.name}"
                for child in node.body
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names
