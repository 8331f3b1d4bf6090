"""The repository's pages of documentation, and what the tests read out of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def section(page: Path, title: str) -> str:
    """Return what stands under a heading of the second level."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def blocks(text: str) -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(text)]


def code_spans(page: Path) -> list[str]:
    """Return what stands in backticks within a page's prose."""
    return _SPAN.findall(_BLOCK.sub("", page.read_text()))
