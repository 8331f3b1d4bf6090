"""The page for Snorkel's users is run as they would run it, and every name in its table can be imported."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from typing import Any

import pytest
import torch

import mtl_core
from tests.docs.pages import ROOT, blocks, section

PAGE = ROOT / "docs" / "coming-from-snorkel.md"


def test_the_examples_print_what_the_page_shows() -> None:
    shown = blocks(PAGE.read_text())
    examples = [block for block in shown if block.language == "python"]
    assert [(first.language, second.language) for first, second in pairwise(shown)][::2] == [
        ("python", "text")
    ] * len(examples)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for code, expected in zip(shown[::2], shown[1::2], strict=True):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code.text, PAGE.name, "exec"), names)
            assert printed.getvalue() == expected.text


@pytest.mark.parametrize(
    "row", re.findall(r"^\| `snorkel\S+` \| (.+) \|$", section(PAGE, "Change the imports"), re.M)
)
def test_names_in_the_table_can_be_imported(row: str) -> None:
    names = re.findall(r"`(\w+)`", row)
    assert names
    assert [name for name in names if name not in mtl_core.__all__] == []
