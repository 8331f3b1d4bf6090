"""The page on calibration: its program runs as it stands there, and what it says of it holds."""

from __future__ import annotations

from typing import Any

from tests.docs.pages import ROOT, blocks


def test_the_program_runs_and_makes_a_better_model() -> None:
    names: dict[str, Any] = {}
    page = (ROOT / "docs" / "calibration.md").read_text()
    (program,) = (block.text for block in blocks(page) if block.language == "python")
    exec(program, names)
    calibration = names["calibration"]
    assert calibration.left_out == {}
    of_task = calibration.tasks["bought"]
    assert of_task.after.log_loss < of_task.before.log_loss
    assert calibration.specs[0].op_sequence[-1].op_name == "bought_temperature"
    assert "bought_temperature" in calibration.model.module_pool
