from __future__ import annotations

from pathlib import Path

import pytest

from examples import census_income
from tests.docs.pages import ROOT
from tests.service.processes import ServerProcess, environment

CENSUS = ROOT.parent / "shared" / "data" / "census-income" / "census-income.csv.gz"


@pytest.mark.skipif(not CENSUS.exists(), reason=f"needs the census file at {CENSUS}")
def test_two_tasks_of_a_raw_file_score_as_logistic_regression_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ServerProcess(env=environment(tmp_path / "data"), log=tmp_path / "log")
    try:
        scores = census_income.main(CENSUS, server.url())
    finally:
        server.stop()
    assert scores["income/census/test/roc_auc"] > 0.947
    assert scores["never_married/census/test/roc_auc"] > 0.9935
    said = capsys.readouterr().out
    assert "99,762 rows of 42 columns" in said
    assert "never_married: False of" in said
