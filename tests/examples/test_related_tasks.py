"""The example's promise, for one seed of those it prints by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import related_tasks


@pytest.mark.usefixtures("_one_thread")
def test_sharing_beats_single_tasks_on_little_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "related.png"
    (found,) = related_tasks.main([40], seeds=[0], picture=picture)
    assert found.shared[0] > found.single[0] + 0.05
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "           40 " in capsys.readouterr().out
