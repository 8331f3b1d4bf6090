"""Labels of the slice tasks: who is in a slice, and what the base task's label is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_core.data import UNLABELLED, DictDataLoader
from mtl_core.errors import TaskloomError
from mtl_core.slicing.names import BASE, ind_task, pred_task, whole_slice, with_base
from mtl_core.specs import TaskSpec
from mtl_core.task import Task

Array = NDArray[Any]


def slice_labels(
    task_name: str, labels: Array, masks: Mapping[str, Array], with_whole: bool = False
) -> dict[str, Array]:
    """Make the labels of a task's slice tasks.

    The slice ``base``, to which every example belongs, is added where the masks lack it.

    Args:
        task_name: The base task's.
        labels: The base task's, ``[n]`` or ``[n, …]``; -1 where an example has none.
        masks: Who belongs to each slice, by its name: booleans or 0/1 ``[n]``, -1 where that is unknown.
        with_whole: Whether to answer ``{task}_slice:{slice}`` too: the labels of ``_pred`` under a name that no task
            has, to be scored along the base task's path; see :func:`slice_remap`. Default: no.

    Returns:
        By label set: ``{task}_slice:{slice}_ind``, int64 ``[n]``, 1 in the slice, 0 outside and -1 where that is
        unknown; ``{task}_slice:{slice}_pred``, the base task's label in the slice and -1 elsewhere, of its shape and
        dtype.

    Raises:
        TaskloomError: If a mask is of another length or has other values, or two label sets would have one name.

    Example:
        >>> made = slice_labels("t", np.array([0, 1, -1]), {"a": np.array([True, False, True])})
        >>> {name: values.tolist() for name, values in made.items() if ":a" in name}
        {'t_slice:a_ind': [1, 0, 1], 't_slice:a_pred': [0, -1, -1]}
    """
    made: dict[str, Array] = {}
    whole: dict[str, Array] = {}
    for name in with_base(masks):
        members = (
            _members(name, masks[name], len(labels)) if name in masks else np.ones(len(labels), np.int64)
        )
        made[ind_task(task_name, name)] = members
        pred = labels.copy()
        pred[members != 1] = UNLABELLED
        made[pred_task(task_name, name)] = pred
        if with_whole and name != BASE:
            whole[whole_slice(task_name, name)] = pred
    if clash := sorted(made.keys() & whole.keys()):
        raise TaskloomError(
            f"'{clash[0]}' would be the labels of a slice and of a slice task: rename that slice"
        )
    return made | whole


def add_slice_labels(dataloader: DictDataLoader, base_task: Task, S: Array) -> None:
    """Put the labels of a task's slice tasks beside its own, into the loader's dataset.

    Args:
        dataloader: Whose dataset has the base task's labels; its ``Y_dict`` is changed.
        base_task: The task that is to be sliced.
        S: What :meth:`SFApplier.apply <mtl_core.slicing.SFApplier.apply>` answered, ``[n]`` with an integer or boolean
            column for each slice; -1 where a slicing function failed.

    Raises:
        TaskloomError: If the dataset has no labels of that task, or ``S`` is of another length or has no named columns.
    """
    Y_dict = dataloader.dataset.Y_dict
    if base_task.name not in Y_dict:
        raise TaskloomError(
            f"labels missing: {dataloader.dataset} has none for the base task '{base_task.name}'"
        )
    if S.dtype.names is None:
        raise TaskloomError("S has no named columns: it is what SFApplier.apply answers")
    labels = Y_dict[base_task.name]
    made = slice_labels(base_task.name, labels.cpu().numpy(), {name: S[name] for name in S.dtype.names})
    Y_dict.update({name: torch.from_numpy(values).to(labels.device) for name, values in made.items()})


def slice_remap(specs: Iterable[TaskSpec]) -> dict[str, str | None]:
    """Say along which task's path each whole slice is scored, for a model's ``remap_labels``.

    Returns:
        Base task by label set ``{task}_slice:{slice}``.
    """
    return {whole_slice(spec.name, part.name): spec.name for spec in specs for part in spec.slices}


def _members(name: str, mask: Array, n: int) -> Array:
    if mask.shape != (n,):
        raise TaskloomError(
            f"slice '{name}' is given for {list(mask.shape)} examples, and there are {n} labels"
        )
    if odd := sorted({*np.unique(mask).tolist()} - {-1, 0, 1}):
        raise TaskloomError(
            f"slice '{name}' has the value {odd[0]}: an example is in (1), out (0) or unknown (-1)"
        )
    return mask.astype(np.int64)
