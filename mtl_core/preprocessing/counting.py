"""What is counted of a column while its rows stream by, at constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

KEPT_VALUES = 100_000
"""Values of a column that are kept in the end, the most frequent."""

LEVELS = np.linspace(0.0, 1.0, 101)
"""Levels of the quantiles that are kept."""

_HELD_VALUES = 1_000_000
_HELD_CHARACTERS = 2**26
_SAMPLE = 200_000
_AT_ONCE = 2**16


class Moments(BaseModel):
    """Count, mean, squared deviations from it, and range of numbers; can be merged.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    Example:
        >>> Moments.of([1.0, 2.0]).merged(Moments.of([3.0])) == Moments.of([1.0, 2.0, 3.0])
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any] | Sequence[float]) -> Moments:
        """Return the moments of finite numbers ``[n]``."""
        found, given = cls(), np.asarray(values)
        # As much at once as a processor's cache holds: no copy of the whole as float64.
        for start in range(0, len(given), _AT_ONCE):
            numbers = given[start : start + _AT_ONCE].astype(np.float64)
            mean, low, high = float(numbers.mean()), float(numbers.min()), float(numbers.max())
            # Not as a scalar product: the threads of one get into each other's way on a busy machine.
            m2 = float(np.square(numbers - mean).sum())
            found = found.merged(cls(n=len(numbers), mean=mean, m2=m2, low=low, high=high))
        return found

    def merged(self, other: Moments) -> Moments:
        """Return the moments of these numbers and the other's."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        difference = other.mean - self.mean
        return Moments(
            n=n,
            mean=(self.n * self.mean + other.n * other.mean) / n,
            m2=self.m2 + other.m2 + difference**2 * self.n * other.n / n,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @property
    def deviation(self) -> float:
        """Standard deviation of the numbers, 0 where all are equal."""
        return math.sqrt(self.m2 / self.n) if self.high > self.low else 0.0


class ValueCounts(BaseModel):
    """How often each value occurs, the most frequent first; ``distinct`` is a lower bound where not exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: list[tuple[str, int]] = []
    distinct: int = 0
    distinct_is_exact: bool = True

    def most_frequent(self, size: int, min_count: int) -> list[str]:
        """Return at most ``size`` values that occur at least ``min_count`` times."""
        return [value for value, n in self.values[:size] if n >= min_count]


class ValueCounter:
    """Counts values; beyond a million the rarest are forgotten, so that memory stays bounded."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._characters = 0
        self._distinct = 0
        self._exact = True

    def add(self, counted: Iterable[tuple[str, int]]) -> None:
        """Count values, each as often as is said."""
        counts = self._counts
        for value, n in counted:
            if n:
                self._characters += len(value) if value not in counts else 0
                counts[value] = counts.get(value, 0) + n
        if len(counts) > _HELD_VALUES or self._characters > _HELD_CHARACTERS:
            self._forget()

    def add_known(self, known: ValueCounts) -> None:
        """Count what another counter found."""
        self.add(known.values)
        self._distinct = max(self._distinct, known.distinct)
        self._exact &= known.distinct_is_exact and known.distinct == len(known.values)

    def finish(self) -> ValueCounts:
        """Return what was counted."""
        return ValueCounts(
            values=self._sorted()[:KEPT_VALUES],
            distinct=max(self._distinct, len(self._counts)),
            distinct_is_exact=self._exact,
        )

    def _forget(self) -> None:
        self._distinct = max(self._distinct, len(self._counts))
        self._exact = False
        kept = self._sorted()[: len(self._counts) // 2]
        self._counts = dict(kept)
        self._characters = sum(len(value) for value in self._counts)

    def _sorted(self) -> list[tuple[str, int]]:
        return sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))


class Sample:
    """A sample of a stream of numbers that depends on nothing but the stream: not on how it is cut into batches."""

    def __init__(self) -> None:
        self._values = np.empty(0, dtype=np.float64)
        self._keys = np.empty(0, dtype=np.uint64)
        self._seen = 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take numbers ``[n]`` into account; NaN holds a place in the stream and is not sampled."""
        keys = _mixed(np.arange(self._seen, self._seen + len(values), dtype=np.uint64))
        self._seen += len(values)
        given = ~np.isnan(values)
        self._values = np.concatenate([self._values, values[given]])
        self._keys = np.concatenate([self._keys, keys[given]])
        if len(self._values) > 2 * _SAMPLE:
            self._cut()

    def quantiles(self) -> list[float]:
        """Return the quantiles at :data:`LEVELS`, exact up to 200,000 numbers; none without numbers."""
        if len(self._values) > _SAMPLE:
            self._cut()
        return np.quantile(self._values, LEVELS).tolist() if len(self._values) else []

    def _cut(self) -> None:
        kept = np.argpartition(self._keys, _SAMPLE)[:_SAMPLE]
        self._values, self._keys = self._values[kept], self._keys[kept]


def merged_quantiles(found: Sequence[tuple[int, list[float]]]) -> list[float]:
    """Return quantiles of several sets of numbers together, each given by its size and its quantiles.

    One set's are returned as they are; those of several are as exact as 101 points of each can tell.
    """
    known = [(n, quantiles) for n, quantiles in found if quantiles]
    if len(known) <= 1:
        return known[0][1] if known else []
    points = np.concatenate([quantiles for _, quantiles in known])
    # An outermost quantile stands for half the share of an inner one.
    share = np.ones(len(LEVELS))
    share[[0, -1]] = 0.5
    weights = np.concatenate([n * share for n, _ in known])
    order = np.lexsort((weights, points))
    points, weights = points[order], weights[order]
    middles = np.cumsum(weights) - weights / 2
    levels = (middles - middles[0]) / (middles[-1] - middles[0])
    return np.interp(LEVELS, levels, points).tolist()


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter numbers over 64 bits (SplitMix64; Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    2014)."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
