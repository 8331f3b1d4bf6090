"""Batch schedules: in which order a training epoch draws from its loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch

from mtl_core.data import Batch, DictDataLoader


class Scheduler(ABC):
    """Draws every batch of every loader exactly once an epoch, in some order."""

    @abstractmethod
    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return which loader each batch of an epoch comes from.

        Args:
            lengths: Each loader's number of batches.

        Returns:
            Indices of loaders, ``sum(lengths)`` of them, loader ``i`` occurring ``lengths[i]`` times.
        """

    def get_batches(self, dataloaders: Sequence[DictDataLoader]) -> Iterator[tuple[Batch, DictDataLoader]]:
        """Yield one epoch's batches, each with the loader that it came from."""
        batches = [iter(loader) for loader in dataloaders]
        for index in self.order([len(loader) for loader in dataloaders]):
            yield next(batches[index]), dataloaders[index]


class SequentialScheduler(Scheduler):
    """One loader after the other."""

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return loader 0 ``lengths[0]`` times, then loader 1, and so on."""
        return [index for index, length in enumerate(lengths) for _ in range(length)]


class ShuffledScheduler(Scheduler):
    """Loaders at random, in proportion to their batches; no batch comes twice before all came once."""

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return the sequential order, shuffled by torch's random generator."""
        sequential = SequentialScheduler().order(lengths)
        return [sequential[int(position)] for position in torch.randperm(len(sequential))]


BATCH_SCHEDULERS: dict[str, type[Scheduler]] = {
    "shuffled": ShuffledScheduler,
    "sequential": SequentialScheduler,
}
