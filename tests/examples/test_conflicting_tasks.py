"""The example's promise, for one seed of those it prints by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import conflicting_tasks


@pytest.mark.usefixtures("_one_thread")
def test_a_combiner_rescues_the_task_that_a_sum_does_not_hear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "conflict.png"
    summed, combined = conflicting_tasks.main(["sum", "config"], seeds=[1], epochs=15, picture=picture)
    assert summed.quiet[-1] < 0.7
    assert combined.quiet[-1] > 0.9
    # Not at the loud one's cost: half of what its noise leaves is the least that both explain.
    assert min(summed.loud, combined.loud) > 0.25
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "config          1" in capsys.readouterr().out
