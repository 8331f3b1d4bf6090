"""How far apart two models' scores on the same examples are, with an interval by the paired bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mtl_core.errors import TaskloomError
from mtl_core.scoring.metrics import Array, Metric
from mtl_core.scoring.scorer import Scorer

# A resample of this many examples takes milliseconds, of a million as many seconds.
_LARGEST_RESAMPLE = 10_000


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: How many resamples are drawn; default 1,000, range 1 to 100,000.
        confidence: Share of the resamples that the interval holds; default 0.95, above 0 and below 1.
        seed: Seeds the draws; default 0, at least 0.

    Raises:
        TaskloomError: If one is out of range.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.resamples <= 100_000:
            raise TaskloomError(f"resamples must be between 1 and 100,000, not {self.resamples}")
        if not 0 < self.confidence < 1:
            raise TaskloomError(f"confidence must be above 0 and below 1, not {self.confidence}")
        if self.seed < 0:
            raise TaskloomError(f"the seed must be at least 0, not {self.seed}")


class Predicted(NamedTuple):
    """What a model answered on some examples.

    Attributes:
        preds: Predictions ``[n]`` or ``[n, …]``.
        probs: Probabilities or values ``[n, …]``.
    """

    preds: Array
    probs: Array


@dataclass(frozen=True)
class Gain:
    """How much better one model scores than another by one metric; positive is better, whatever the metric.

    Attributes:
        metric: The metric's name.
        first: The first model's score.
        second: The second model's score.
        gain: ``first - second``, or ``second - first`` where less of the metric is better.
        low: Lower end of the interval around the gain; None where the metric was undefined on most resamples.
        high: Upper end.
        n: Examples that were scored.
        skipped: Resamples on which the metric was undefined, as AUC is without both classes; they count in neither end.
    """

    metric: str
    first: float
    second: float
    gain: float
    low: float | None
    high: float | None
    n: int
    skipped: int


def judged_metrics(scorer: Scorer) -> dict[str, Metric]:
    """Return the metrics by which one model can be called better than another, in the scorer's order.

    Left out are those of which neither more nor less is better, those that count examples rather than answers
    (``coverage``), and functions that do not say which way is better, as only a
    :class:`~mtl_core.scoring.metrics.Metric` does.
    """
    return {
        name: metric
        for name, metric in scorer.metrics.items()
        if isinstance(metric, Metric) and metric.leaves_out and metric.higher_is_better is not None
    }


def paired_gains(
    scorer: Scorer,
    golds: Array,
    first: Predicted,
    second: Predicted,
    bootstrap: Bootstrap | None = None,
    by_group: bool = False,
) -> list[Gain]:
    """Compare two models on the same examples by every metric that says which way is better.

    Each resample draws examples with replacement and scores both models on them, so that what makes examples hard for
    both cancels; the interval lies between percentiles of the resamples' gains. Of more than 10,000 examples a
    resample draws 10,000, and the interval is narrowed by the root of their share, as the spread of a score goes with
    the root of the number of examples; so time and memory are bounded.

    Args:
        scorer: Has the metrics.
        golds: Labels ``[n]`` or ``[n, …]``.
        first: One model's answers, those on the same examples in the same order.
        second: The other's.
        bootstrap: How the interval is made; default: as :class:`Bootstrap` has it.
        by_group: Whether labels are groups and relevances ``[n, 2]``; whole groups are drawn then, as the examples of
            a group are scored together. Default False.

    Returns:
        One for each metric that is finite for both models.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13, for percentile intervals; Bickel,
    Götze and van Zwet, Resampling Fewer Than n Observations, 1997, for smaller resamples.

    Example:
        >>> golds, right, wrong = np.ones(50, int), np.ones(50, int), np.zeros(50, int)
        >>> probs = np.zeros((50, 2))
        >>> (gain,) = paired_gains(Scorer(["accuracy"]), golds, Predicted(right, probs), Predicted(wrong, probs))
        >>> gain.gain, gain.low, gain.high
        (1.0, 1.0, 1.0)
    """
    bootstrap = bootstrap or Bootstrap()
    metrics = judged_metrics(scorer)
    judging = Scorer(custom_metric_funcs=metrics, abstain_label=scorer.abstain_label)
    of_first, counts = _scores(judging, golds, first)
    of_second, _ = _scores(judging, golds, second)
    defined = [name for name in metrics if math.isfinite(of_first[name]) and math.isfinite(of_second[name])]
    if not defined:
        return []
    random = np.random.default_rng(bootstrap.seed)
    draw, narrowing = (_by_group if by_group and golds.ndim == 2 else _by_example)(golds, random)
    resampled: dict[str, list[float]] = {name: [] for name in defined}
    for _ in range(bootstrap.resamples):
        rows, drawn = draw()
        both = [_scores(judging, drawn, _rows(model, rows))[0] for model in (first, second)]
        for name in defined:
            gain = _gain(metrics[name], both[0][name], both[1][name])
            if math.isfinite(gain):
                resampled[name].append(gain)
    gains: list[Gain] = []
    for name in defined:
        gain = _gain(metrics[name], of_first[name], of_second[name])
        low, high = _interval(resampled[name], gain, bootstrap, narrowing)
        skipped = bootstrap.resamples - len(resampled[name])
        gains.append(Gain(name, of_first[name], of_second[name], gain, low, high, counts[name], skipped))
    return gains


_Draw = Callable[[], tuple[Array, Array]]
"""Draws a resample: which rows, and their labels."""


def _by_example(golds: Array, random: np.random.Generator) -> tuple[_Draw, float]:
    """Return what draws examples, and the factor on the interval's width for drawing fewer than there are."""
    n = len(golds)
    size = min(n, _LARGEST_RESAMPLE)

    def draw() -> tuple[Array, Array]:
        rows = random.integers(n, size=size)
        return rows, golds[rows]

    return draw, math.sqrt(size / n)


def _by_group(golds: Array, random: np.random.Generator) -> tuple[_Draw, float]:
    """Return what draws whole groups, and the factor on the interval's width for drawing fewer than there are."""
    _, group_of = np.unique(golds[:, 0], return_inverse=True)
    members: list[Array] = np.split(
        np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1]
    )
    # As many groups as hold that many examples on average, and at least one.
    size = max(1, min(len(members), _LARGEST_RESAMPLE * len(members) // len(golds)))

    def draw() -> tuple[Array, Array]:
        chosen: list[Array] = [members[i] for i in random.integers(len(members), size=size)]
        rows = np.concatenate(chosen)
        drawn = golds[rows]
        # A group that is drawn twice is two groups.
        drawn[:, 0] = np.repeat(np.arange(size), [len(group) for group in chosen])
        return rows, drawn

    return draw, math.sqrt(size / len(members))


def _rows(predicted: Predicted, rows: Array) -> Predicted:
    return Predicted(predicted.preds[rows], predicted.probs[rows])


def _scores(
    scorer: Scorer, golds: Array, predicted: Predicted
) -> tuple[Mapping[str, float], Mapping[str, int]]:
    rows = scorer.scores(golds, predicted.preds, predicted.probs, "", "", "")
    return {row.metric: row.value for row in rows}, {row.metric: row.n for row in rows}


def _gain(metric: Metric, first: float, second: float) -> float:
    return first - second if metric.higher_is_better else second - first


def _interval(
    resampled: list[float], gain: float, bootstrap: Bootstrap, narrowing: float
) -> tuple[float | None, float | None]:
    if 2 * len(resampled) <= bootstrap.resamples:
        return None, None
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return gain + narrowing * (float(low) - gain), gain + narrowing * (float(high) - gain)
