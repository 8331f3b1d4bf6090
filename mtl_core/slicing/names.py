"""How the tasks, modules and label sets that slices bring are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

BASE: Final = "base"
"""The slice to which every example belongs."""

IND_HEAD: Final = "_ind_head"
PRED_HEAD: Final = "_pred_head"
PRED_TRANSFORM: Final = "_pred_transform"
"""What the names of a slice's operations end in, after ``{task}_slice:{slice}``."""


def with_base(slice_names: Iterable[str]) -> list[str]:
    """Return the slices' names with ``base`` last, unless it stands among them."""
    return list(dict.fromkeys((*slice_names, BASE)))


def whole_slice(task_name: str, slice_name: str) -> str:
    """Return what names of a slice begin with; also the label set that is scored along the base task's path."""
    return f"{task_name}_slice:{slice_name}"


def ind_task(task_name: str, slice_name: str) -> str:
    """Return the name of a slice's indicator task."""
    return f"{whole_slice(task_name, slice_name)}_ind"


def pred_task(task_name: str, slice_name: str) -> str:
    """Return the name of a slice's predictor task."""
    return f"{whole_slice(task_name, slice_name)}_pred"


LabelSetKind = Literal["indicator", "predictor", "whole"]


def slice_label_sets(task_name: str, slice_names: Iterable[str]) -> dict[str, LabelSetKind]:
    """Return the names of all label sets that slices bring, none where there are none, each with its kind.

    What is ``whole`` is scored along the base task's path; the others are for the tasks of their names.
    """
    names = list(slice_names)
    kinds: dict[str, LabelSetKind] = {}
    for name in with_base(names) if names else []:
        kinds |= {ind_task(task_name, name): "indicator", pred_task(task_name, name): "predictor"}
        if name != BASE:
            kinds[whole_slice(task_name, name)] = "whole"
    return kinds


def master_combiner(task_name: str) -> str:
    """Return the name of the module that combines a task's slices."""
    return f"{task_name}_master_combiner"


def master_head(task_name: str) -> str:
    """Return the name that a task's head has once the task is sliced."""
    return f"{task_name}_master_head"


def count_slice_layers(n_slices: int) -> int:
    """Return how many layers slicing a task adds: three for each slice and for ``base``, and the combiner."""
    return 3 * (n_slices + 1) + 1
