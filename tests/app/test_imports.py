"""Processes that compute nothing start without what computing needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "pyarrow", "optuna", "scipy", "sklearn", "pandas")


@pytest.mark.parametrize(
    ("modules", "spared"),
    [
        ("app.cli.main", (*HEAVY, "numpy", "sqlalchemy", "fastapi", "app.settings")),
        ("app.cli.main, app.logs, app.db.migrations, app.worker.supervisor", (*HEAVY, "numpy", "fastapi")),
        ("app.cli.main, app.logs, app.db.migrations, app.cli.server", (*HEAVY, "numpy")),
        ("app.cli.demo", HEAVY),
    ],
    ids=["command", "worker", "server", "demo"],
)
def test_a_process_starts_without(modules: str, spared: tuple[str, ...]) -> None:
    program = f"import sys, {modules}; print(*sorted(set({spared!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_collecting_goes_on_after_imports_for_good() -> None:
    program = """
import gc
from app.imports import import_for_good
import_for_good("app.problems")
print(gc.isenabled(), gc.get_freeze_count() > 1000)
try:
    import_for_good("app.nothing")
except ModuleNotFoundError:
    print(gc.isenabled())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True"]
