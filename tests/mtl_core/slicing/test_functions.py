from __future__ import annotations

import re
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtl_core import TaskloomError
from mtl_core.slicing import PandasSFApplier, SFApplier, SlicingFunction, slice_dataframe, slicing_function

NUMBERS = [3, 43, 12, 9, 3]
POINTS = [SimpleNamespace(num=number) for number in NUMBERS]


@slicing_function()
def large(x: Any) -> bool:
    return x.num > 42


@slicing_function(name="listed", resources={"db": [3, 6, 9]})
def in_db(x: Any, db: list[int]) -> int:
    return int(x.num in db)


def squared(x: Any) -> Any:
    return SimpleNamespace(num=x.num**2)


@slicing_function(pre=[squared])
def large_squared(x: Any) -> bool:
    return x.num > 42


@slicing_function()
def fails_on_nine(x: Any) -> int:
    return 1 // (x.num - 9) > 0


def test_a_slicing_function_is_a_function_with_a_name_and_resources() -> None:
    assert isinstance(large, SlicingFunction)
    assert (large(POINTS[1]), large(POINTS[0])) == (True, False)
    assert [sf.name for sf in (large, in_db)] == ["large", "listed"]
    assert repr(large) == "SlicingFunction large, Preprocessors: []"
    assert in_db(POINTS[0]) == 1
    with pytest.raises(TypeError):
        large(SimpleNamespace(num=None))


def test_a_decorator_without_parentheses_is_refused() -> None:
    with pytest.raises(ValueError, match="missing parentheses"):
        slicing_function(lambda x: True)  # pyright: ignore[reportArgumentType]


def test_a_preprocessor_that_answers_none_is_refused() -> None:
    forgetful = SlicingFunction("f", lambda x: True, pre=[lambda x: None])
    with pytest.raises(TaskloomError, match=r"'f': preprocessor .* answered None"):
        forgetful(POINTS[0])


def test_what_a_preprocessor_sets_stays_out_of_the_data() -> None:
    def doubling(x: Any) -> Any:
        x.num *= 2
        x.seen.append(x.num)
        return x

    doubled = SlicingFunction("doubled", lambda x: x.num > 42, pre=[doubling, doubling])
    plain = SlicingFunction("plain", lambda x: x.num > 42)
    points = [SimpleNamespace(num=number, seen=[]) for number in NUMBERS]
    answers = SFApplier([doubled, plain]).apply(points, progress_bar=False)
    assert (answers["doubled"].tolist(), answers["plain"].tolist()) == ([0, 1, 1, 0, 0], [0, 1, 0, 0, 0])
    assert points == [SimpleNamespace(num=number, seen=[]) for number in NUMBERS]


@pytest.mark.parametrize("progress_bar", [True, False])
def test_points_rows_and_frames_are_sliced_alike(progress_bar: bool) -> None:
    sfs = [large, in_db, large_squared]
    expected = {"large": [0, 1, 0, 0, 0], "listed": [1, 0, 0, 1, 1], "large_squared": [0, 1, 1, 1, 0]}
    frame = pd.DataFrame({"num": NUMBERS}, index=[9, 8, 7, 6, 5])
    for answers in (
        SFApplier(lfs=sfs).apply(data_points=POINTS, progress_bar=progress_bar),
        PandasSFApplier(lfs=sfs).apply(df=frame, progress_bar=progress_bar),
    ):
        assert isinstance(answers, np.recarray)
        assert answers.shape == (5,)
        assert {name: answers[name].tolist() for name in answers.dtype.names or ()} == expected
        assert answers["large"].dtype == np.int64
    by_row = SlicingFunction("first", lambda x: x[0] > 10)
    assert SFApplier([by_row]).apply(np.array([[5], [11]]), progress_bar=False)["first"].tolist() == [0, 1]
    assert SFApplier([large]).apply([], progress_bar=False).shape == (0,)


def test_failures_end_everything_unless_they_are_tolerated() -> None:
    applier = SFApplier([fails_on_nine, large])
    with pytest.raises(ZeroDivisionError):
        applier.apply(POINTS, progress_bar=False)
    answers, meta = applier.apply(POINTS, progress_bar=False, fault_tolerant=True, return_meta=True)
    assert answers["fails_on_nine"].tolist() == [0, 0, 0, -1, 0]
    assert answers["large"].tolist() == [0, 1, 0, 0, 0]
    assert meta.faults == {"fails_on_nine": 1}


def test_tolerated_failures_are_warned_of_where_nobody_asks_for_the_counts() -> None:
    with pytest.warns(UserWarning, match=re.escape("{'fails_on_nine': 1}")):
        SFApplier([fails_on_nine]).apply(POINTS, progress_bar=False, fault_tolerant=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SFApplier([large]).apply(POINTS, progress_bar=False, fault_tolerant=True)


@pytest.mark.parametrize("answer", [2, None, "yes", 0.5])
def test_answers_that_say_neither_in_nor_out_are_refused(answer: object) -> None:
    odd = SlicingFunction("odd", lambda x: answer)
    with pytest.raises(TaskloomError, match="slicing function 'odd' answered"):
        SFApplier([odd]).apply(POINTS, progress_bar=False, fault_tolerant=True)


@pytest.mark.parametrize("sfs", [[], [large, large]])
def test_slicing_functions_need_names_of_their_own(sfs: list[SlicingFunction]) -> None:
    with pytest.raises(TaskloomError, match="names of their own"):
        SFApplier(sfs)


def test_the_rows_of_a_slice_keep_their_order_and_index() -> None:
    frame = pd.DataFrame({"num": [50, 10, 60]}, index=["a", "b", "c"])
    assert slice_dataframe(frame, large).index.tolist() == ["a", "c"]
