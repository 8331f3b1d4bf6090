from __future__ import annotations

import gzip
from pathlib import Path
from statistics import fmean

import pytest

from examples import census_architectures
from tests.docs.pages import ROOT
from tests.service.processes import ServerProcess, environment

CENSUS = ROOT.parent / "shared" / "data" / "census-income" / "census-income.csv.gz"


@pytest.mark.skipif(not CENSUS.exists(), reason=f"needs the census file at {CENSUS}")
def test_architectures_stand_beside_other_models_and_the_verdict_agrees_with_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some.csv.gz"
    with gzip.open(CENSUS, "rt") as every, gzip.open(some, "wt") as kept:
        kept.writelines(line for i, line in enumerate(every) if i % 16 == 0)
    server = ServerProcess(env=environment(tmp_path / "data"), log=tmp_path / "log")
    try:
        found, verdict = census_architectures.main(some, server.url(), seeds=[1], epochs=6)
    finally:
        server.stop()

    assert found.keys() == {
        *census_architectures.ARCHITECTURES,
        "logistic regression",
        "gradient boosting",
    }
    for scores in found.values():
        assert fmean(scores["income"]) > 0.87
        assert fmean(scores["never_married"]) > 0.97
        assert fmean(scores["some_college"]) > 0.82
    assert {task["task"] for task in verdict["tasks"]} == set(census_architectures.TASKS)
    for task in verdict["tasks"]:
        (comparison,) = task["comparisons"]
        # The run with a verdict trains the same model with the same seed, and its twins are as large.
        assert comparison["shared"] == pytest.approx(found["shared_bottom"][task["task"]][0], abs=1e-6)
        apart = comparison["shared"] - found["single_task"][task["task"]][0]
        assert comparison["low"] - 0.01 < apart < comparison["high"] + 0.01
    said = capsys.readouterr().out
    assert "mmoe " in said
    assert verdict["summary"] in said
