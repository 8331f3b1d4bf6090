"""The README's tour is played as a reader would play it, and its Python example is run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import README, ROOT, Block, blocks, section
from tests.service.processes import ServerProcess, environment

TOUR = section(README, "A five-minute tour")
FROM_FILE = section(README, "From a raw file to named answers")
CENSUS = ROOT.parent / "shared" / "data" / "census-income" / "census-income.csv.gz"
ADDRESS = "http://127.0.0.1:8000"
_MARK = "@@@ step"
_DECIMAL = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+")


@dataclass(frozen=True)
class Step:
    """A block of commands, what they printed, and what the README shows below them."""

    commands: str
    printed: str
    shown: list[str]


@dataclass(frozen=True)
class Played:
    """The whole tour, and what the server logged of it."""

    steps: list[Step]
    requests: list[dict[str, Any]]

    def step(self, part: str) -> Step:
        """Return the one step whose commands hold some text."""
        (found,) = [step for step in self.steps if part in step.commands]
        return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    start, *steps = _steps(TOUR)
    assert start[0].strip() == ".venv/bin/taskloom serve"
    return _play(tmp_path_factory.mktemp("tour"), steps)


@pytest.fixture(scope="module")
def played_file(tmp_path_factory: pytest.TempPathFactory) -> Played:
    if not CENSUS.exists():
        pytest.skip(f"needs the census file at {CENSUS}")
    folder = tmp_path_factory.mktemp("file")
    shutil.copy(CENSUS, folder / CENSUS.name)
    (abbreviation,) = [step for step in _steps(TOUR) if "api() {" in step[0]]
    return _play(folder, [abbreviation, *_steps(FROM_FILE)])


def _play(folder: Path, steps: list[tuple[str, list[str]]]) -> Played:
    """Run the commands in one shell, against a server of their own."""
    assert shutil.which("curl"), "the README's tour needs curl"
    script = "set -euo pipefail\n" + "".join(f"echo '{_MARK}'\n{commands}" for commands, _ in steps)
    with _server(folder) as url:
        done = subprocess.run(
            ["bash", "-c", script.replace(ADDRESS, url)],
            cwd=folder,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
    log = (folder / "log").read_text()
    assert done.returncode == 0, f"{done.stdout}\n{log}"
    printed = done.stdout.split(f"{_MARK}\n")[1:]
    logged = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return Played(
        steps=[
            Step(commands, output, shown) for (commands, shown), output in zip(steps, printed, strict=True)
        ],
        requests=[line for line in logged if line["event"] == "request"],
    )


@pytest.mark.parametrize(("which", "blocks"), [("played", 10), ("played_file", 4)])
def test_every_command_prints_what_the_readme_shows(
    request: pytest.FixtureRequest, which: str, blocks: int
) -> None:
    played: Played = request.getfixturevalue(which)
    shown = [(step, text) for step in played.steps for text in step.shown]
    assert len(shown) >= blocks
    for step, text in shown:
        assert _missing(text, step.printed) is None, f"{step.commands}\nprinted\n{step.printed}"


def test_a_raw_file_is_learnt_at_least_as_well_as_by_logistic_regression(played_file: Played) -> None:
    promised = [float(number) for number in re.findall(r"reaches (0\.\d+) and (0\.\d+)", FROM_FILE)[0]]
    scores = json.loads(played_file.step("versions/latest/scores").printed.splitlines()[-2])
    for task, enough in zip(("income", "never_married"), promised, strict=True):
        # The figures are rounded to three digits.
        assert scores[f"{task}/census/test/roc_auc"] >= enough - 0.0005


def test_scores_are_as_high_as_the_readme_says(played: Played) -> None:
    promised = [float(value) for value in re.findall(r"at least (0\.\d+)", TOUR)]
    for version, steps, enough in zip(
        (1, 2), ("versions/latest/scores", "versions/2/scores"), promised, strict=True
    ):
        scores = json.loads(played.step(steps).printed.splitlines()[0])
        assert len(scores) == 2 * (version + 1)
        assert min(scores.values()) >= enough, scores


def test_requests_are_answered_with_the_statuses_that_the_readme_names(played: Played) -> None:
    # While it loads, the server answers those that ask whether it is ready that it is not yet.
    asked = [request for request in played.requests if request["path"] != "/readyz"]
    refused = [(r["method"], r["path"], r["status"]) for r in asked if r["status"] >= 400]
    assert refused == [("POST", "/v1/tasks", 422)]
    runs = [r["status"] for r in played.requests if r["path"] == "/v1/models/shapes/runs"]
    assert runs == [202, 202]


def test_the_refused_task_names_the_operation(played: Played) -> None:
    problem, status = played.step("star_task").printed.splitlines()
    assert status == "422 application/problem+json"
    (fault,) = json.loads(problem)["errors"]
    assert fault["pointer"] == "/op_sequence/1"
    assert "operation 'head'" in fault["detail"]


def test_the_library_example_runs(tmp_path: Path) -> None:
    code, shown = blocks(section(README, "The library alone"))
    assert (code.language, shown.language) == ("python", "text")
    done = subprocess.run(
        [sys.executable, "-c", code.text], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(done.stdout) == pytest.approx(ast.literal_eval(shown.text), abs=0.03)


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ('{"a": 1, … }\n200', '{"a":1,"b":2}\n200\n', None),
        ('{"a": 0.91}', '{"a":0.87}', None),
        ('{"a": 1, … }', '{"a":2,"b":1}', '{"a":1,'),
        ('{"a": 1}', '{"a":1,"b":2}', '{"a":1}'),
        ("…\nid: 3\n…", "id: 1\nid: 2\n", "id:3"),
    ],
)
def test_shown_output_is_compared_by_its_fragments(shown: str, printed: str, missing: str | None) -> None:
    assert _missing(shown, printed) == missing


def _steps(text: str) -> list[tuple[str, list[str]]]:
    """Return a section's bash blocks in order, each with the output blocks that follow it."""
    steps: list[tuple[str, list[str]]] = []
    for block in blocks(text):
        match block:
            case Block("bash", text):
                steps.append((text, []))
            case Block("json" | "text", text):
                steps[-1][1].append(text)
            case _:
                raise AssertionError(f"a tour has a block of {block.language}")
    return steps


def _missing(shown: str, printed: str) -> str | None:
    """Return the first part of shown output that was not printed.

    What the README leaves out it marks by ``…``; white space and decimal numbers may differ.
    """
    wanted, actual = (re.sub(r"\s", "", _DECIMAL.sub("…", text)) for text in (shown, printed))
    fragments = wanted.split("…")
    at = 0
    for i, fragment in enumerate(fragments):
        found = actual.find(fragment, at)
        misplaced = (i == 0 and found > 0) or (
            i == len(fragments) - 1 and fragment and not actual.endswith(fragment)
        )
        if found < 0 or misplaced:
            return fragment
        at = found + len(fragment)
    return None


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Start what the tour's first command starts, on a free port and with its data in a folder of its own."""
    server = ServerProcess(env=environment(folder / "data"), log=folder / "log")
    try:
        yield server.url()
    finally:
        server.stop()
