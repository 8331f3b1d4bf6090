"""The examples on the census file, both through one server."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from examples import census_architectures, census_income
from tests.docs.pages import ROOT
from tests.service.processes import ServerProcess, environment

CENSUS = ROOT.parent / "shared" / "data" / "census-income" / "census-income.csv.gz"

pytestmark = pytest.mark.skipif(not CENSUS.exists(), reason=f"needs the census file at {CENSUS}")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("census")
    server = ServerProcess(env=environment(folder / "data"), log=folder / "log")
    try:
        yield server.url()
    finally:
        server.stop()


def thinned(folder: Path, step: int) -> Path:
    """Return the census file with one row of so many; what the whole comes to is held with the README's tour."""
    some = folder / "some.csv.gz"
    with gzip.open(CENSUS, "rt") as every, gzip.open(some, "wt") as kept:
        kept.writelines(line for i, line in enumerate(every) if i % step == 0)
    return some


def test_two_tasks_of_a_raw_file_score_well(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = census_income.main(thinned(tmp_path, 4), url)
    assert scores["income/census/test/roc_auc"] > 0.94
    assert scores["never_married/census/test/roc_auc"] > 0.99
    said = capsys.readouterr().out
    assert "24,941 rows of 42 columns" in said
    assert "never_married: False of" in said


def test_architectures_stand_beside_other_models_and_the_verdict_agrees_with_the_scores(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, verdict = census_architectures.main(thinned(tmp_path, 32), url, seeds=[1], epochs=3)

    others = {"logistic regression", "gradient boosting"}
    assert found.keys() == {*census_architectures.ARCHITECTURES, *others}
    for scores in found.values():
        assert all(fmean(areas) > 0.75 for areas in scores.values())
    assert {task["task"] for task in verdict["tasks"]} == set(census_architectures.TASKS)
    for task in verdict["tasks"]:
        (comparison,) = task["comparisons"]
        # The run with a verdict trains the same model with the same seed, and its twins are as large.
        assert comparison["shared"] == pytest.approx(found["shared_bottom"][task["task"]][0], abs=1e-6)
        apart = comparison["shared"] - found["single_task"][task["task"]][0]
        assert comparison["low"] - 0.02 < apart < comparison["high"] + 0.02
    said = capsys.readouterr().out
    assert "mmoe " in said
    assert verdict["summary"] in said
