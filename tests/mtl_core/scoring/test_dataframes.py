from __future__ import annotations

import sys

import pytest

from mtl_core import Scorer, TaskloomError, metrics_dict_to_dataframe


def test_a_row_has_the_four_parts_of_a_key_and_the_value() -> None:
    frame = metrics_dict_to_dataframe({"t/d/test/f1": 0.5, "t/d/test/loss": float("nan")})
    assert list(frame.columns) == ["label", "dataset", "split", "metric", "score"]
    assert frame.drop(columns="score").to_numpy().tolist() == [
        ["t", "d", "test", "f1"],
        ["t", "d", "test", "loss"],
    ]
    assert frame["score"].isna().tolist() == [False, True]
    assert len(metrics_dict_to_dataframe({})) == 0


@pytest.mark.parametrize("key", ["f1", "t/d/test", "t/d/test/f1/1"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(TaskloomError, match=f"'{key}' is no score's key"):
        metrics_dict_to_dataframe({key: 0.5})


def test_without_pandas_tables_are_refused_and_scores_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TaskloomError, match="needs pandas, which is not installed"):
        metrics_dict_to_dataframe({})
    assert Scorer([]).score([1], [1]) == {}
