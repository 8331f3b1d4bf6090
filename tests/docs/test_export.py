"""The page on exports: its program runs as it stands there, and what it says of it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.pages import ROOT, blocks
from tests.mtl_core.export.models import NOT_IN_ONNX

PAGE = (ROOT / "docs" / "export.md").read_text()


def test_the_program_runs_and_what_leaves_answers_as_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(PAGE):
        if block.language == "python":
            exec(block.text, names)
    assert {file.name for file in tmp_path.iterdir()} == {"model.zip", "model.pt2", "bought.onnx"}
    assert list(names["answers"]) == [
        f"{task}.{kind}"
        for task, probs in (("bought", "probs"), ("visits", "outputs"))
        for kind in ("logits", probs, "preds")
    ]
    batch = {"person": torch.randn(5, 4)}
    ours, theirs = (names[name].infer(batch, ["visits"])["visits"] for name in ("model", "again"))
    assert torch.equal(ours["preds"], theirs["preds"])
    assert names["check"].largest_difference < 1e-5


def test_what_has_no_onnx_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in NOT_IN_ONNX)
