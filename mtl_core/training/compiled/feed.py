"""From a loader's batches to the buffers that programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from mtl_core.data import Batch, DictDataLoader, DictDataset, is_given, is_labelled
from mtl_core.training.compiled.buffers import Buffers
from mtl_core.training.compiled.program import GroupLabels
from mtl_core.training.compiled.recipe import Recipe

Part = torch.Tensor | Batch
"""A batch as indices into a split that is in memory, or as it was read."""


_ROWS_AT_ONCE = 65_536


class Feed:
    """Puts the batches of one loader into buffers.

    Args:
        loader: The loader; it gathers.
        recipe: Which fields and labels are wanted.
        buffers: Memory.
        key: What sets this loader apart from others.

    Attributes:
        dataset: The split.
        tasks: The tasks that it has labels of.
        others: The tasks whose loss autograd computes that it has labels of.
        partly: Those of ``tasks`` that some example has no label for.
    """

    def __init__(self, loader: DictDataLoader, recipe: Recipe, buffers: Buffers, key: int) -> None:
        self.dataset = data = loader.dataset
        self._loader = loader
        self._buffers = buffers
        self._key = key
        self._by_index = type(data).batch is DictDataset.batch
        self._groups = {
            number: (group.kind, group.width, tasks)
            for number, group in enumerate(recipe.groups)
            if (tasks := tuple(task for task in group.tasks if task in data.Y_dict))
        }
        self.tasks = tuple(task for _, _, tasks in self._groups.values() for task in tasks)
        gaps = {task: _gaps(data.Y_dict[task]) for task in self.tasks}
        self._incomplete = {task for task, (any_label, _) in gaps.items() if any_label}
        self.partly = {task for task, (_, whole_example) in gaps.items() if whole_example}
        self.others = tuple(task for task in recipe.others if task in data.Y_dict)
        outside = recipe.fields_outside or data.X_dict
        self._outside = {name: X for name, X in data.X_dict.items() if name in outside}
        sources = {source for source in recipe.sources_of(self.tasks) if isinstance(source, str)}
        self._fields = sorted(sources)
        self._loads: dict[int, list[Callable[[Any], object]]] = {}

    def __iter__(self) -> Iterator[Part]:
        """Draw an epoch's batches."""
        return self.from_batch(0)

    def from_batch(self, number: int) -> Iterator[Part]:
        """Draw an epoch's batches, but for those before a number."""
        loader = self._loader
        return loader.index_batches(number) if self._by_index else loader.from_batch(number)

    def __len__(self) -> int:
        return len(self._loader)

    def n_examples(self, part: Part) -> int:
        """Return how many examples a batch has."""
        return (part if isinstance(part, torch.Tensor) else next(iter(part[0].values()))).shape[0]

    def load(self, part: Part, n: int) -> None:
        """Put a batch of ``n`` examples into the buffers."""
        for load in self._loads.get(n) or self._loads.setdefault(n, list(self._bound(n))):
            load(part)

    def batch(self, part: Part) -> Batch:
        """Return fields and labels that autograd looks at, in memory of their own."""
        if not isinstance(part, torch.Tensor):
            return part
        Y_dict = self.dataset.Y_dict
        return (
            {name: X.index_select(0, part) for name, X in self._outside.items()},
            {task: Y_dict[task].index_select(0, part) for task in self.others},
        )

    def whole(self, part: Part) -> Batch:
        """Return all fields and labels of a batch."""
        return self.dataset.batch(part) if isinstance(part, torch.Tensor) else part

    def fields(self, n: int) -> dict[str, torch.Tensor]:
        """Return the buffers of the fields, ``[n, d]``."""
        data = self.dataset
        return {
            name: self._buffers.rows(("field", name), n, data.X_dict[name].shape[1:]) for name in self._fields
        }

    def labels(self, n: int) -> dict[int, GroupLabels]:
        """Return the buffers of the labels by number of the group."""
        found: dict[int, GroupLabels] = {}
        for number, (kind, width, tasks) in self._groups.items():
            shape = [len(tasks), n, *kind.label_shape(width)]
            labels = self._buffers.fixed(("labels", self._key, number, n), shape, kind.label_dtype)
            found[number] = GroupLabels(labels, tasks, not self._incomplete.isdisjoint(tasks))
        return found

    def n_labelled(self, n: int) -> dict[str, int]:
        """Return how many examples of the batch that was loaded are labelled, by task; without those that none is.

        Looks at all labels, which is to no avail where no task is ``partly`` labelled.
        """
        counts: dict[str, int] = {}
        for of in self.labels(n).values():
            if not of.masked:
                counts |= dict.fromkeys(of.tasks, n)
                continue
            given = is_given(of.labels)
            rows = given if given.ndim == 2 else given.any(dim=2)
            counts |= zip(of.tasks, cast("list[int]", rows.sum(dim=1).tolist()), strict=True)
        return {task: count for task, count in counts.items() if count}

    def _bound(self, n: int) -> Iterator[Callable[[Any], object]]:
        """Yield what puts a batch of ``n`` examples into the buffers, field by field."""
        X_dict, Y_dict = self.dataset.X_dict, self.dataset.Y_dict
        for name, place in self.fields(n).items():
            yield self._of(lambda batch, name=name: batch[0][name], X_dict[name], place)
        for of in self.labels(n).values():
            for task, place in zip(of.tasks, of.labels, strict=True):
                yield self._of(lambda batch, task=task: batch[1][task], Y_dict[task], place)

    def _of(
        self, pick: Callable[[Batch], torch.Tensor], values: torch.Tensor, place: torch.Tensor
    ) -> Callable[[Any], object]:
        if not self._by_index:
            return lambda batch: place.copy_(pick(batch).view(place.shape))
        if values.dtype == place.dtype and values.device == place.device:
            of_shape = place.view(-1, *values.shape[1:])
            return lambda indices: torch.index_select(values, 0, indices, out=of_shape)
        return lambda indices: place.copy_(values.index_select(0, indices).view(place.shape))


def _gaps(labels: torch.Tensor) -> tuple[bool, bool]:
    """Say whether any label ``[n, …]`` is missing, and whether all of some example are."""
    # Part by part: labels may be larger than memory.
    parts = [labels[start : start + _ROWS_AT_ONCE] for start in range(0, len(labels), _ROWS_AT_ONCE)]
    any_missing = any(not bool(is_given(part).all()) for part in parts)
    return any_missing, any_missing and any(not bool(is_labelled(part).all()) for part in parts)
