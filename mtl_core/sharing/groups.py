"""Tasks put into groups, so that within a group their gradients do not pull against one another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Final

Affinities = Mapping[tuple[str, str], float]
"""The mean cosine of two tasks' gradients, in [-1, 1], by their names in alphabetical order."""

CONFLICT: Final = -0.05
"""Below this affinity two tasks oppose one another; gradients of unrelated tasks are at right angles but for noise."""


def affinity(affinities: Affinities, a: str, b: str) -> float | None:
    """Return two tasks' affinity; None where it was not measured, as of tasks that share no module."""
    return affinities.get((min(a, b), max(a, b)))


def opponents(task: str, affinities: Affinities) -> list[str]:
    """Return the tasks whose gradients oppose those of a task, the fiercest first."""
    others = {other: value for pair, value in affinities.items() if task in pair for other in pair}
    opposed = {other: value for other, value in others.items() if other != task and value < CONFLICT}
    return sorted(opposed, key=lambda other: (opposed[other], other))


def suggest_groups(
    tasks: Sequence[str], affinities: Affinities, losing: Collection[str] = ()
) -> list[list[str]]:
    """Return a partition of tasks into groups that do not oppose one another.

    Beginning with every task by itself, the two groups with the highest mean affinity between their tasks become one,
    until that mean is below :data:`CONFLICT` for all pairs of groups (agglomerative clustering with average linkage).
    Two tasks that were not compared count as 0: nothing speaks against them. A task that loses by sharing stands alone
    unless its affinity with another of its group is above 0.

    Args:
        tasks: Their names.
        affinities: What is known of pairs of them.
        losing: The tasks that do worse with the others than alone; default: none.

    Returns:
        The groups, tasks in each and groups by their first tasks in the order of ``tasks``.

    Source: Fifty et al., Efficiently Identifying Task Groupings for Multi-Task Learning, 2021, and Standley et al.,
    Which Tasks Should Be Learned Together in Multi-task Learning?, 2020, for groups by affinity.

    Example:
        >>> suggest_groups(["a", "b", "c"], {("a", "b"): 0.4, ("a", "c"): -0.3, ("b", "c"): -0.2})
        [['a', 'b'], ['c']]
    """

    def mean_affinity(pair: tuple[list[str], list[str]]) -> float:
        return fmean(affinity(affinities, a, b) or 0.0 for a in pair[0] for b in pair[1])

    groups = [[task] for task in tasks]
    while len(groups) > 1:
        first, second = max(combinations(groups, 2), key=mean_affinity)
        if mean_affinity((first, second)) < CONFLICT:
            break
        groups.remove(second)
        first += second
    friendless = [
        task
        for group in groups
        for task in group
        if task in losing and not any((affinity(affinities, task, other) or 0.0) > 0 for other in group)
    ]
    left = [[task for task in group if task not in friendless] for group in groups]
    places = {task: i for i, task in enumerate(tasks)}
    found = [sorted(group, key=places.__getitem__) for group in left if group]
    return sorted([*found, *([task] for task in friendless)], key=lambda group: places[group[0]])
