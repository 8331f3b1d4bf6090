"""The tutorial is run as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.py"
SCORE = re.compile(r"^  (\w+)/(\w+)/(train|valid|test)/accuracy: (\d\.\d{3})$", re.MULTILINE)


def test_the_tutorial_prints_good_scores_for_two_tasks_and_for_three() -> None:
    # More threads than idle cores would make these small layers many times slower.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(TUTORIAL)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    two, three = run.stdout.split("three tasks:")
    for part, tasks in ((two, ["circle", "square"]), (three, ["circle", "square", "inv_circle"])):
        scores = SCORE.findall(part)
        assert [(task, dataset, split) for task, dataset, split, _ in scores] == [
            (f"{name}_task", f"{name}Dataset", split)
            for name in tasks
            for split in ("train", "valid", "test")
        ]
        assert min(float(value) for *_, value in scores) >= 0.9
    assert "3 tasks, 4 modules in the pool" in run.stdout


def test_the_tutorial_imports_only_the_librarys_public_names() -> None:
    imports = re.findall(r"^from (mtl_core\S*) import", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
    assert imports == ["mtl_core"]
