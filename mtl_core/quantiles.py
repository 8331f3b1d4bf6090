"""Which quantiles of a value a task answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Refuse probabilities that are none of quantiles.

    Raises:
        ValueError: If there are none, one is not above 0 and below 1, or they do not rise.
    """
    if not quantiles or not 0 < min(quantiles) <= max(quantiles) < 1:
        raise ValueError("quantiles must be one or more numbers above 0 and below 1")
    if any(right <= left for left, right in pairwise(quantiles)):
        raise ValueError("quantiles must rise from the first to the last")


def middle_of(quantiles: Sequence[float]) -> int:
    """Return the place of the quantile that is nearest to the median, the lower one of two."""
    return min(range(len(quantiles)), key=lambda i: abs(quantiles[i] - 0.5))
