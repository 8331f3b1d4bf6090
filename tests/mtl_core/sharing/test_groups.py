from __future__ import annotations

from mtl_core.sharing import suggest_groups
from mtl_core.sharing.groups import opponents

TWO_CAMPS = {
    ("a", "b"): 0.5,
    ("a", "c"): -0.3,
    ("a", "d"): -0.2,
    ("b", "c"): -0.1,
    ("b", "d"): 0.04,
    ("c", "d"): 0.3,
}


def test_tasks_that_oppose_one_another_are_parted() -> None:
    assert suggest_groups(list("abcd"), TWO_CAMPS) == [["a", "b"], ["c", "d"]]
    assert suggest_groups(list("dcba"), TWO_CAMPS) == [["d", "c"], ["b", "a"]]


def test_without_a_conflict_there_is_one_group() -> None:
    assert suggest_groups(list("abc"), {("a", "b"): 0.2, ("a", "c"): 0.0, ("b", "c"): -0.01}) == [
        ["a", "b", "c"]
    ]
    assert suggest_groups(list("abc"), {}) == [["a", "b", "c"]]
    assert suggest_groups([], {}) == []


def test_the_mean_over_a_group_decides_not_its_closest_pair() -> None:
    affinities = {("a", "b"): 0.9, ("a", "c"): 0.3, ("b", "c"): -0.8}
    assert suggest_groups(list("abc"), affinities) == [["a", "b"], ["c"]]


def test_a_task_that_loses_stands_alone_unless_it_has_a_friend() -> None:
    assert suggest_groups(list("abc"), {("a", "b"): 0.2}, losing=["c"]) == [["a", "b"], ["c"]]
    assert suggest_groups(list("abc"), {("a", "b"): 0.2, ("a", "c"): 0.1}, losing=["c"]) == [["a", "b", "c"]]
    assert suggest_groups(list("abc"), TWO_CAMPS, losing=["a", "c"]) == [["a", "b"], ["c"]]


def test_the_fiercest_opponent_comes_first() -> None:
    assert opponents("a", TWO_CAMPS) == ["c", "d"]
    assert opponents("c", TWO_CAMPS) == ["a", "b"]
    assert opponents("d", TWO_CAMPS) == ["a"]
