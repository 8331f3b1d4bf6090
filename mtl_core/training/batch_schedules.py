"""Batch schedules: in which order a training epoch draws from its loaders, and what makes one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, Protocol, TypeVar, cast

import torch

from mtl_core.data import Batch, DictDataLoader
from mtl_core.training.config import BatchSchedulerConfig, TrainerConfig


class Source(Protocol):
    """What batches are drawn from."""

    def __iter__(self) -> Iterator[Any]:
        """Draw an epoch's batches."""
        ...

    def from_batch(self, number: int) -> Iterator[Any]:
        """Draw an epoch's batches, but for those before a number."""
        ...

    def __len__(self) -> int:
        """Return how many those are."""
        ...


S = TypeVar("S", bound=Source)

Draw = tuple[Batch, DictDataLoader]
"""A batch, and the loader that it came from."""


class Scheduler(ABC):
    """Says from which loader each batch of an epoch comes; a loader that is drawn from again when it is through
    starts anew.

    Attributes:
        progress: How much of the training lies behind, from 0 in its first epoch to 1 in its last; default 0.
    """

    progress: float = 0.0

    @abstractmethod
    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return which loader each batch of an epoch comes from.

        Args:
            lengths: Each loader's number of batches.

        Returns:
            Indices of loaders that have a batch.
        """

    def steps(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return which loaders the batches of each step of an epoch come from: by default one batch makes a step.

        Args:
            lengths: Each loader's number of batches.
        """
        return [[index] for index in self.order(lengths)]

    def n_steps(self, lengths: Sequence[int]) -> int:
        """Return how many steps an epoch has; the same in every epoch."""
        return sum(lengths)

    def get_steps(self, sources: Sequence[S]) -> Iterator[list[tuple[Any, S]]]:
        """Yield the batches of each step of one epoch, each with the source that it came from.

        Args:
            sources: Loaders, or others that have a length and can be gone through any number of times.
        """
        return iter(EpochDraws(self, sources))

    def get_batches(self, dataloaders: Sequence[DictDataLoader]) -> Iterator[Draw]:
        """Yield one epoch's batches, each with the loader that it came from."""
        for step in self.get_steps(dataloaders):
            yield from step


@dataclass
class _Opened:
    """A source that is being gone through.

    Attributes:
        batches: Its batches.
        begun: Torch's random state when the first of them was drawn.
        n_drawn: How many were drawn.
        is_behind: Whether ``batches`` is still to draw what comes after those, and that with ``begun``.
    """

    batches: Iterator[Any]
    begun: torch.Tensor
    n_drawn: int = 0
    is_behind: bool = False

    def draw(self) -> Any:
        """Return the next batch, or None when there is no more."""
        if self.is_behind:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.begun)
                batch = next(self.batches, None)
            self.is_behind = False
        else:
            batch = next(self.batches, None)
        self.n_drawn += batch is not None
        return batch


class EpochDraws(Generic[S]):
    """The batches of one epoch, step by step, and where in it a training stands.

    Args:
        scheduler: Says from which source each batch comes.
        sources: What batches are drawn from.
        place: Where to go on, as :meth:`place` had it of the same sources; default: the beginning.

    Attributes:
        n_drawn: Steps that were drawn.
    """

    def __init__(
        self, scheduler: Scheduler, sources: Sequence[S], place: Mapping[str, Any] | None = None
    ) -> None:
        self._scheduler = scheduler
        self._sources = sources
        self._opened: list[_Opened | None] = [None] * len(sources)
        self._ordered: torch.Tensor | None = None
        self.n_drawn = 0
        if place is not None:
            self.n_drawn, self._ordered = place["n_drawn"], place["ordered"]
            for index, opened in enumerate(place["sources"]):
                if opened is not None:
                    n_drawn = opened["n_drawn"]
                    batches = sources[index].from_batch(n_drawn)
                    self._opened[index] = _Opened(batches, opened["begun"], n_drawn, is_behind=True)

    def __iter__(self) -> Iterator[list[tuple[Any, S]]]:
        """Draw the steps that are left."""
        for indices in self._order()[self.n_drawn :]:
            self.n_drawn += 1
            yield [(self._next(index), self._sources[index]) for index in indices]

    def place(self) -> dict[str, Any]:
        """Return where the epoch stands.

        Torch's random states are those of when its order, and that of each source, was drawn: orders are drawn again
        rather than kept, which takes sources that draw theirs at once.
        """
        return {
            "n_drawn": self.n_drawn,
            "ordered": self._ordered,
            "sources": [
                None if opened is None else {"begun": opened.begun, "n_drawn": opened.n_drawn}
                for opened in self._opened
            ],
        }

    def _order(self) -> list[list[int]]:
        lengths = [len(source) for source in self._sources]
        if self._ordered is None:
            self._ordered = torch.get_rng_state()
            return self._scheduler.steps(lengths)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._ordered)
            return self._scheduler.steps(lengths)

    def _next(self, index: int) -> Any:
        opened = self._opened[index]
        if opened is not None and (batch := opened.draw()) is not None:
            return batch
        opened = self._opened[index] = _Opened(iter(self._sources[index]), torch.get_rng_state())
        return opened.draw()


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
        order = torch.tensor(sequential, dtype=torch.int64)[torch.randperm(len(sequential))]
        return cast("list[int]", order.tolist())


class RoundRobinScheduler(Scheduler):
    """Loaders in turn, one batch each; those that are through are passed over."""

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return 0, 1, 2 … again and again, each loader as often as it has batches."""
        rounds = zip_longest(*([index] * length for index, length in enumerate(lengths)))
        return [index for turn in rounds for index in turn if index is not None]


class ProportionalScheduler(Scheduler):
    """Loaders drawn at random, each with a chance of its number of batches to the power of ``1 / temperature``.

    As many batches as there are make an epoch, but a small loader's may come several times and a large one's not at
    all: with temperature 1 loaders come in proportion to their size, with a high one all alike (Arivazhagan et al.,
    2019, https://arxiv.org/abs/1907.05019).

    Args:
        temperature: See above; at least 1, default 1.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return loaders drawn by torch's random generator, ``sum(lengths)`` of them."""
        chances = torch.tensor(lengths, dtype=torch.float64) ** (1 / self.temperature)
        # 0 ** 0 is 1, but of an empty loader there is nothing to draw.
        chances[torch.tensor(lengths) == 0] = 0
        return [int(index) for index in torch.multinomial(chances, sum(lengths), replacement=True)]


class AnnealedScheduler(Scheduler):
    """Loaders drawn at random, by their size at first and ever more alike (Stickland and Murray, 2019).

    The chance of a loader is its number of batches to a power that falls evenly, epoch by epoch, from 1 to
    ``final_exponent`` (https://arxiv.org/abs/1902.02671, section 4.4).

    Args:
        final_exponent: The power in the last epoch; range [0, 1], default 0.2.
    """

    def __init__(self, final_exponent: float = 0.2) -> None:
        self.final_exponent = final_exponent

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return loaders drawn by torch's random generator, ``sum(lengths)`` of them."""
        exponent = 1 - (1 - self.final_exponent) * self.progress
        temperature = 1 / exponent if exponent else torch.inf
        return ProportionalScheduler(temperature).order(lengths)


class JointScheduler(Scheduler):
    """A batch of every loader makes one step, so that all tasks are looked at together; shorter loaders start anew."""

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Return all loaders that have a batch, again and again, until the longest is through."""
        return [index for step in self.steps(lengths) for index in step]

    def steps(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return for every step all loaders that have a batch."""
        filled = [index for index, length in enumerate(lengths) if length]
        return [filled] * self.n_steps(lengths)

    def n_steps(self, lengths: Sequence[int]) -> int:
        """Return the number of batches of the longest loader."""
        return max(lengths, default=0)


_SCHEDULERS: dict[str, Callable[[BatchSchedulerConfig], Scheduler]] = {
    "shuffled": lambda _: ShuffledScheduler(),
    "sequential": lambda _: SequentialScheduler(),
    "round_robin": lambda _: RoundRobinScheduler(),
    "proportional": lambda settings: ProportionalScheduler(settings.temperature),
    "annealed": lambda settings: AnnealedScheduler(settings.final_exponent),
    "joint": lambda _: JointScheduler(),
}


def build_scheduler(config: TrainerConfig) -> Scheduler:
    """Return the schedule that ``config.batch_scheduler`` names."""
    return _SCHEDULERS[config.batch_scheduler](config.batch_scheduler_config)
