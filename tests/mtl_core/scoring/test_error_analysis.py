from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import TaskloomError
from mtl_core.scoring.error_analysis import get_label_buckets, get_label_instances


@given(rows=st.lists(st.tuples(*[st.integers(-1, 2)] * 3), max_size=25), column=st.booleans())
def test_every_example_is_in_the_bucket_of_its_labels(rows: list[tuple[int, int, int]], column: bool) -> None:
    y = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    buckets = get_label_buckets(y[0], y[1], y[2][:, None] if column else y[2])
    expected: dict[tuple[int, ...], list[int]] = {}
    for i, labels in enumerate(rows):
        expected.setdefault(labels, []).append(i)
    assert {labels: at.tolist() for labels, at in buckets.items()} == expected
    assert list(buckets) == list(expected)


def test_instances_are_the_rows_of_a_bucket_and_none_where_it_does_not_occur() -> None:
    x = np.array([["a", "1"], ["b", "2"], ["c", "3"]], dtype=object)
    golds, preds = np.array([1, 1, 1]), np.array([1.0, 0.0, 0.0])
    assert get_label_instances((1, 0), x, golds, preds).tolist() == [["b", "2"], ["c", "3"]]
    assert get_label_instances((0, 0), x, golds, preds).shape == (0, 2)


def test_labels_that_do_not_match_are_refused() -> None:
    x = np.array(["a", "b"])
    with pytest.raises(TaskloomError, match=r"one length, not \[3, 2\]"):
        get_label_buckets(np.zeros(3), np.zeros(2))
    with pytest.raises(TaskloomError, match="should be given"):
        get_label_buckets()
    with pytest.raises(TaskloomError, match="has 2 labels, and there are 1 arrays"):
        get_label_instances((1, 0), x, np.zeros(2))
    with pytest.raises(TaskloomError, match="2 examples and 3 labels"):
        get_label_instances((1,), x, np.zeros(3))
