"""Which examples a model gets right and wrong: by the combination of their labels."""

from __future__ import annotations

import numpy as np

from mtl_core.errors import TaskloomError
from mtl_core.scoring.labels import to_int_label_array
from mtl_core.scoring.metrics import Array


def get_label_buckets(*y: Array) -> dict[tuple[int, ...], Array]:
    """Gather the examples by the combination of labels that they have.

    Args:
        *y: Labels of the same examples, ``[n]`` or ``[n, 1]`` of whole numbers: golds and predictions, say.

    Returns:
        For each combination that occurs, in the order of its first example, the examples' indices, int64 ``[m]``,
        ascending.

    Raises:
        TaskloomError: If there are no labels, or not as many in each array.

    Example:
        >>> golds, preds = np.array([1, 1, 1, 0]), np.array([1, 1, -1, -1])
        >>> {labels: at.tolist() for labels, at in get_label_buckets(golds, preds).items()}
        {(1, 1): [0, 1], (1, -1): [2], (0, -1): [3]}
    """
    columns = [to_int_label_array(labels) for labels in y]
    lengths = [len(labels) for labels in columns]
    if len(set(lengths)) != 1:
        raise TaskloomError(f"labels should be given, each array of one length, not {lengths}")
    combinations, first, which = np.unique(
        np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True
    )
    ends = np.cumsum(np.bincount(which.reshape(-1), minlength=len(first)))
    members = np.split(np.argsort(which.reshape(-1), kind="stable"), ends[:-1])
    return {tuple(combinations[i].tolist()): members[i] for i in np.argsort(first)}


def get_label_instances(bucket: tuple[int, ...], x: Array, *y: Array) -> Array:
    """Return the examples that have one combination of labels.

    Args:
        bucket: The combination, a label for each array of ``y``.
        x: The examples, ``[n, …]``.
        *y: Their labels, each ``[n]`` or ``[n, 1]`` of whole numbers.

    Returns:
        The rows of ``x`` with that combination, ``[m, …]``; none where it does not occur.

    Raises:
        TaskloomError: If the lengths of ``bucket``, ``x`` and ``y`` do not match.

    Example:
        >>> texts = np.array(["fine", "poor", "good"])
        >>> get_label_instances((1, 0), texts, np.array([1, 0, 1]), np.array([0, 0, 1])).tolist()
        ['fine']
    """
    if len(bucket) != len(y):
        raise TaskloomError(
            f"the bucket {bucket} has {len(bucket)} labels, and there are {len(y)} arrays of them"
        )
    buckets = get_label_buckets(*y)
    n = sum(map(len, buckets.values()))
    if len(x) != n:
        raise TaskloomError(f"there are {len(x)} examples and {n} labels")
    return x[buckets.get(tuple(bucket), np.array([], dtype=np.int64))]
