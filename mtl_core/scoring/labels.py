"""Arrays of labels: from probabilities and back, cast to integers, filtered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from mtl_core.data import UNLABELLED
from mtl_core.errors import TaskloomError
from mtl_core.scoring.metrics import Array

TieBreakPolicy = Literal["random", "true-random", "abstain"]


def probs_to_preds(
    probs: Array,
    tie_break_policy: TieBreakPolicy = "random",
    tol: float = 1e-5,
    rng: np.random.Generator | None = None,
) -> Array:
    """Return each example's likeliest class.

    Args:
        probs: Probabilities ``[n, k]`` of two or more classes.
        tie_break_policy: What to answer where several classes are likeliest. ``"random"``: one of them, which depends
            on the example's place alone, so that it is the same every time; ``"true-random"``: one of them, drawn from
            ``rng``; ``"abstain"``: -1. Default ``"random"``.
        tol: Classes whose probabilities are less than this below the highest tie with it; default 1e-5, at least 0.
        rng: What ``"true-random"`` draws from; default: a new generator, different every time.

    Returns:
        Classes, int64 ``[n]``.

    Raises:
        TaskloomError: If there are fewer than two classes, a probability is NaN or the policy is unknown.

    Example:
        >>> probs = np.array([[0.2, 0.8], [0.5, 0.5], [0.5, 0.5]])
        >>> probs_to_preds(probs).tolist(), probs_to_preds(probs, "abstain").tolist()
        ([1, 1, 0], [1, -1, -1])
    """
    if tie_break_policy not in get_args(TieBreakPolicy):
        known = ", ".join(get_args(TieBreakPolicy))
        raise TaskloomError(f"tie_break_policy '{tie_break_policy}' is unknown; known: {known}")
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise TaskloomError(f"probs should be [n, k] of two or more classes, not {list(probs.shape)}")
    if len(missing := np.flatnonzero(np.isnan(probs).any(axis=1))):
        raise TaskloomError(f"the probabilities of example {missing[0]} are NaN")
    below = probs.max(axis=1, keepdims=True) - probs
    likeliest = (below < tol) | (below == 0)
    preds = likeliest.argmax(axis=1)
    tied = np.flatnonzero(likeliest.sum(axis=1) > 1)
    if tie_break_policy == "abstain":
        preds[tied] = UNLABELLED
        return preds
    options = likeliest[tied]
    counts: Array = options.sum(axis=1)
    if tie_break_policy == "random":
        hashes = [_hash(i) % n for i, n in zip(tied.tolist(), counts.tolist(), strict=True)]
        choices: Array = np.array(hashes, np.int64)
    else:
        choices = (rng or np.random.default_rng()).integers(counts)
    # The place of the option that is preceded by as many others as was chosen.
    preds[tied] = (options & (options.cumsum(axis=1) == choices[:, None] + 1)).argmax(axis=1)
    return preds


def _hash(i: int) -> int:
    return int(hashlib.sha1(str(i).encode(), usedforsecurity=False).hexdigest(), 16)


def preds_to_probs(preds: Array, num_classes: int) -> Array:
    """Return probabilities that are 1 for the predicted class.

    Args:
        preds: Classes ``[n]`` or ``[n, 1]``, from 0 to ``num_classes - 1``.
        num_classes: How many classes there are.

    Returns:
        Probabilities, float64 ``[n, num_classes]``.

    Raises:
        TaskloomError: If an example abstains, or has a class that is no integer or above the last.

    Example:
        >>> preds_to_probs(np.array([1, 0]), num_classes=3).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    classes = to_int_label_array(preds)
    if len(classes) and classes.min() < 0:
        raise TaskloomError("an abstaining prediction has no probabilities")
    if len(classes) and classes.max() >= num_classes:
        raise TaskloomError(
            f"class {classes.max()} is none of {num_classes} classes, the first of which is 0"
        )
    return np.eye(num_classes)[classes]


def to_int_label_array(X: Array, flatten_vector: bool = True) -> Array:
    """Return labels as integers, by default along one dimension.

    Args:
        X: Whole numbers of any dtype, ``[n]``, ``[n, 1]`` or, where they are not flattened, of any shape.
        flatten_vector: Whether to drop dimensions of length 1; default: yes.

    Returns:
        int64 ``[n]``, or of the shape of ``X`` where not flattened.

    Raises:
        TaskloomError: If a value is no whole number or no number, or the array has more than one dimension longer
            than 1.

    Example:
        >>> to_int_label_array(np.array([[1.0], [0.0]])).tolist()
        [1, 0]
    """
    if X.dtype.kind not in "biuf":
        raise TaskloomError(f"labels should be whole numbers, not of dtype {X.dtype}")
    whole = np.isfinite(X) & (np.trunc(X) == X)
    if not whole.all():
        raise TaskloomError(f"labels should be whole numbers, not {X[~whole].flat[0]}")
    labels: Array = X.astype(np.int64)
    if not flatten_vector or labels.ndim == 1:
        return labels
    if sum(length > 1 for length in labels.shape) > 1:
        raise TaskloomError(f"labels of shape {list(X.shape)} cannot be flattened to one an example")
    return labels.reshape(-1)


def filter_labels(
    label_dict: Mapping[str, Array | None], filter_dict: Mapping[str, Sequence[int]]
) -> dict[str, Array | None]:
    """Leave out the examples that have one of some labels, from all arrays alike.

    Args:
        label_dict: Arrays ``[n, …]`` of the same examples by name; None where there is none.
        filter_dict: For a name, the labels to leave out. An example goes if any of its entries has one of them.

    Returns:
        By the names of ``label_dict``, what is left of each array; None where there was none.

    Raises:
        TaskloomError: If a name to filter by is unknown or the arrays' lengths differ.

    Example:
        >>> golds, preds = np.array([-1, 0, 1, 1]), np.array([0, 0, 1, -1])
        >>> left = filter_labels({"golds": golds, "preds": preds}, {"golds": [-1], "preds": [-1]})
        >>> left["golds"].tolist(), left["preds"].tolist()
        ([0, 1], [0, 1])
    """
    if unknown := sorted(filter_dict.keys() - label_dict.keys()):
        raise TaskloomError(f"cannot filter by '{unknown[0]}': there are {', '.join(label_dict)}")
    lengths = {name: len(labels) for name, labels in label_dict.items() if labels is not None}
    if len(set(lengths.values())) > 1:
        raise TaskloomError(f"labels of the same examples should have one length, not {lengths}")
    kept: Array = np.ones(next(iter(lengths.values()), 0), dtype=bool)
    for name, values in filter_dict.items():
        labels = label_dict[name]
        if labels is not None and labels.size:
            kept &= ~np.isin(labels, values).reshape(len(labels), -1).any(axis=1)
    return {name: None if labels is None else labels[kept] for name, labels in label_dict.items()}
