from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_core import Scorer, TaskloomError
from mtl_core.scoring.metrics import Array, MetricFunction
from mtl_core.sharing import Bootstrap, Gain, Predicted, paired_gains


def by_class(preds: Array) -> Predicted:
    return Predicted(preds, np.eye(2)[preds])


def gain_of(metric: str, golds: Array, first: Predicted, second: Predicted, **bootstrap: int | float) -> Gain:
    (gain,) = paired_gains(Scorer([metric]), golds, first, second, Bootstrap(**bootstrap))  # type: ignore[arg-type]
    return gain


def right_on(n: int, *shares: tuple[int, int]) -> Array:
    """Predictions of ``n`` labels of 1 that are right from one row to another."""
    preds = np.zeros(n, int)
    for start, stop in shares:
        preds[start:stop] = 1
    return preds


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_difference_of_accuracies(confidence: float) -> None:
    # Only one is right on 80 and 40 of 400 rows: the difference of paired shares has a known spread.
    golds = np.ones(400, int)
    first, second = by_class(right_on(400, (0, 280))), by_class(right_on(400, (0, 200), (280, 320)))
    gain = gain_of("accuracy", golds, first, second, resamples=4000, confidence=confidence)
    assert (gain.first, gain.second) == (0.7, 0.6)
    assert gain.gain == pytest.approx(0.1)
    deviation = math.sqrt((80 + 40) / 400 - 0.1**2) / math.sqrt(400)
    z = {0.8: 1.2816, 0.95: 1.96}[confidence]
    assert gain.low == pytest.approx(0.1 - z * deviation, abs=0.006)
    assert gain.high == pytest.approx(0.1 + z * deviation, abs=0.006)
    assert (gain.n, gain.skipped) == (400, 0)


def test_what_is_hard_for_both_cancels() -> None:
    golds = np.ones(200, int)
    same = by_class(right_on(200, (0, 100)))
    gain = gain_of("accuracy", golds, same, same, resamples=100)
    assert (gain.gain, gain.low, gain.high) == (0, 0, 0)


def test_positive_is_better_whatever_the_metric() -> None:
    random = np.random.default_rng(0)
    golds = random.normal(size=100)
    near, far = (golds + random.normal(scale=scale, size=100) for scale in (0.1, 1.0))
    for metric in ("mae", "r2"):
        gain = gain_of(metric, golds, Predicted(near, near), Predicted(far, far), resamples=200)
        assert gain.gain > 0
        assert gain.low is not None
        assert gain.low > 0
        back = gain_of(metric, golds, Predicted(far, far), Predicted(near, near), resamples=200)
        assert back.gain == pytest.approx(-gain.gain)
        assert back.high is not None
        assert back.high < 0


def test_of_many_examples_a_smaller_resample_gives_the_same_interval() -> None:
    n = 40_000
    random = np.random.default_rng(3)
    golds = np.ones(n, int)
    first, second = (by_class((random.random(n) < share).astype(int)) for share in (0.7, 0.69))
    gain = gain_of("accuracy", golds, first, second, resamples=600)
    deviation = math.sqrt((first.preds - second.preds).var() / n)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * deviation, rel=0.12)
    assert gain.low < gain.gain < gain.high
    assert gain.n == n


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(50):
        golds = np.ones(150, int)
        first, second = (by_class((random.random(150) < share).astype(int)) for share in (0.8, 0.7))
        gain = gain_of("accuracy", golds, first, second, resamples=120, confidence=0.9)
        assert gain.low is not None
        assert gain.high is not None
        covered += gain.low <= 0.1 <= gain.high
    assert 39 <= covered <= 50


def test_resamples_without_a_value_are_counted_and_too_many_leave_no_interval() -> None:
    golds = np.array([1] * 2 + [0] * 18)
    probs = np.linspace(1, 0, 20)[:, None]
    good = Predicted((probs[:, 0] > 0.5).astype(int), probs)
    bad = Predicted(good.preds, np.zeros((20, 1)))
    gain = gain_of("roc_auc", golds, good, bad, resamples=500)
    assert 500 * 0.05 < gain.skipped < 500 * 0.25  # (18 / 20) ** 20 = 0.12
    assert gain.low == 0.5
    none = np.array([1, 0] + [-1] * 18)
    few = gain_of("roc_auc", none, good, bad, resamples=500)
    assert few.skipped > 250
    assert (few.low, few.high) == (None, None)
    assert paired_gains(Scorer(["roc_auc"]), np.ones(20, int), good, bad) == []


def test_whole_groups_are_drawn_where_examples_are_ranked_within_them() -> None:
    groups, n = 30, 10
    random = np.random.default_rng(2)
    golds = np.stack([np.repeat(np.arange(groups), n), np.tile(np.arange(n) % 3, groups)], axis=1).astype(
        float
    )
    good = golds[:, 1] + random.normal(scale=0.8, size=len(golds))
    bad = random.normal(size=len(golds))
    (gain,) = paired_gains(
        Scorer(["ndcg"]), golds, Predicted(good, good), Predicted(bad, bad), Bootstrap(400), by_group=True
    )
    of_groups = [
        paired_gains(
            Scorer(["ndcg"]),
            golds[rows],
            Predicted(good[rows], good[rows]),
            Predicted(bad[rows], bad[rows]),
            Bootstrap(1),
        )[0].gain
        for rows in np.split(np.arange(len(golds)), groups)
    ]
    spread = float(np.std(of_groups)) / math.sqrt(groups)
    assert gain.low is not None
    assert gain.high is not None
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_metrics_without_a_better_way_are_not_compared() -> None:
    def silent(golds: Array, preds: Array, probs: Array) -> float:
        return 1.0

    custom: dict[str, MetricFunction] = {"mine": silent}
    scorer = Scorer(["accuracy", "coverage"], custom_metric_funcs=custom)
    some = by_class(np.ones(4, int))
    assert [gain.metric for gain in paired_gains(scorer, np.ones(4, int), some, some)] == ["accuracy"]


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"confidence": 1.0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TaskloomError, match=next(iter(wrong))):
        Bootstrap(**wrong)  # type: ignore[arg-type]
