from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import TaskloomError
from mtl_core.scoring.labels import filter_labels, preds_to_probs, probs_to_preds, to_int_label_array
from mtl_core.scoring.metrics import Array

TIED = np.array([[0.33, 0.33, 0.33], [0.0, 0.5, 0.5], [0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])


def coarse_probs(n: int, k: int, seed: int) -> Array:
    """Probabilities of few distinct values, so that many tie."""
    return np.random.default_rng(seed).integers(0, 4, (n, k)) / 4


CASES = {"n": st.integers(0, 30), "k": st.integers(2, 5), "seed": st.integers(0, 10**6)}


@given(**CASES)
def test_ties_are_broken_by_a_hash_of_the_examples_place(n: int, k: int, seed: int) -> None:
    probs = coarse_probs(n, k, seed)
    expected: list[int] = []
    for i, row in enumerate(probs):
        options = np.flatnonzero(row == row.max())
        expected.append(options[int(hashlib.sha1(str(i).encode()).hexdigest(), 16) % len(options)])
    assert probs_to_preds(probs).tolist() == expected


@given(**CASES)
def test_an_abstaining_prediction_stands_for_every_tie_and_no_other(n: int, k: int, seed: int) -> None:
    probs = coarse_probs(n, k, seed)
    ties = (probs == probs.max(axis=1, keepdims=True)).sum(axis=1) > 1
    assert probs_to_preds(probs, "abstain").tolist() == np.where(ties, -1, probs.argmax(axis=1)).tolist()


def test_ties_drawn_at_random_reach_every_option_and_come_again_from_one_generator() -> None:
    draws = [
        probs_to_preds(TIED, "true-random", rng=np.random.default_rng(seed)).tolist() for seed in range(40)
    ]
    assert [set(column) for column in zip(*draws, strict=True)] == [{0, 1, 2}, {1, 2}, {2}, {0, 1}]
    assert draws[7] == probs_to_preds(TIED, "true-random", rng=np.random.default_rng(7)).tolist()
    assert probs_to_preds(TIED, "true-random")[2] == 2


def test_what_is_near_enough_ties() -> None:
    probs = np.array([[0.5, 0.5 - 1e-4]])
    assert probs_to_preds(probs, "abstain").tolist() == [0]
    assert probs_to_preds(probs, "abstain", tol=1e-3).tolist() == [-1]
    assert probs_to_preds(TIED, "abstain", tol=0).tolist() == [-1, -1, 2, -1]


@pytest.mark.parametrize(
    ("probs", "policy", "message"),
    [
        ([[0.3], [0.7]], "random", r"two or more classes, not \[2, 1\]"),
        ([0.3, 0.7], "random", r"two or more classes, not \[2\]"),
        ([[0.3, 0.7]], "negative", "'negative' is unknown; known: random, true-random, abstain"),
        ([[0.3, 0.7], [0.3, np.nan]], "random", "of example 1 are NaN"),
    ],
)
def test_probabilities_that_say_nothing_are_refused(probs: Any, policy: Any, message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        probs_to_preds(np.array(probs), policy)


@given(preds=st.lists(st.integers(0, 4), max_size=9), column=st.booleans())
def test_predictions_survive_the_way_to_probabilities_and_back(preds: list[int], column: bool) -> None:
    array = np.array(preds, dtype=np.int64)
    probs = preds_to_probs(array[:, None] if column else array, 5)
    assert probs.shape == (len(preds), 5)
    assert probs_to_preds(probs).tolist() == preds


@pytest.mark.parametrize(
    ("preds", "message"), [([0, -1], "abstaining"), ([0, 3], "class 3 is none of 3"), ([0.5], "not 0.5")]
)
def test_predictions_without_probabilities_are_refused(preds: list[float], message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        preds_to_probs(np.array(preds), 3)


def test_labels_become_integers_along_one_dimension_or_as_they_are() -> None:
    column = np.array([[1.0], [0.0], [-1.0]])
    assert to_int_label_array(column).tolist() == [1, 0, -1]
    assert to_int_label_array(column).dtype == np.int64
    assert to_int_label_array(column, flatten_vector=False).tolist() == [[1], [0], [-1]]
    assert to_int_label_array(np.array([[3.0]])).tolist() == [3]
    assert to_int_label_array(np.array(3)).tolist() == [3]
    assert to_int_label_array(np.empty((0, 1))).tolist() == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2.1], "not 2.1"),
        ([np.nan], "not nan"),
        ([np.inf], "not inf"),
        ([[1, 0], [0, 1]], r"\[2, 2\]"),
        ("1 2", "not of dtype <U3"),
    ],
)
def test_what_is_no_label_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        to_int_label_array(np.array(labels))


def test_examples_with_a_label_to_leave_out_go_from_all_arrays() -> None:
    golds, preds = np.array([-1, 0, 0, 1, 1]), np.array([[0], [0], [1], [1], [-1]])
    probs = np.arange(10).reshape(5, 2)
    left = filter_labels(
        {"golds": golds, "preds": preds, "probs": probs, "none": None},
        {"golds": [-1, 7], "preds": [-1], "none": [0]},
    )
    assert left.pop("none") is None
    values = {name: cast("Array", array).tolist() for name, array in left.items()}
    assert values == {"golds": [0, 0, 1], "preds": [[0], [1], [1]], "probs": [[2, 3], [4, 5], [6, 7]]}
    assert cast("Array", filter_labels({"golds": golds}, {})["golds"]).tolist() == golds.tolist()


def test_labels_that_do_not_belong_together_are_not_filtered() -> None:
    with pytest.raises(TaskloomError, match="cannot filter by 'gold': there are golds"):
        filter_labels({"golds": np.zeros(2)}, {"gold": [-1]})
    with pytest.raises(TaskloomError, match="one length"):
        filter_labels({"golds": np.zeros(2), "preds": np.zeros(3)}, {"golds": [-1]})
