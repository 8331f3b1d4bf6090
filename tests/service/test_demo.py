"""``taskloom demo``: the tutorial and the digits through a server and worker of its own."""

from __future__ import annotations

from pathlib import Path

from tests.service.processes import environment, run_command


def test_the_demo_comes_out_as_it_should(tmp_path: Path) -> None:
    done = run_command("demo", "--data-dir", str(tmp_path / "demo"), env=environment(tmp_path), timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    for score in (
        "circle_task/circleDataset/train/accuracy",
        "inv_circle_task/inv_circleDataset/test/accuracy",
    ):
        assert score in done.stdout
    for score in (
        "digit/digits/test/accuracy",
        "is_odd/digits/test/accuracy",
        "at_least_five/digits/test/accuracy",
    ):
        assert score in done.stdout
    assert "/docs" in done.stdout
