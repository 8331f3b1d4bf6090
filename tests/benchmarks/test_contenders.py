"""The contenders of the benchmarks do the same work: what is compared is comparable."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def test_data_and_initial_weights_are_the_same_every_time():
    from benchmarks import workloads

    first, second = workloads.load("W1", seed=1), workloads.load("W1", seed=2)
    for one, other in zip(first.splits, second.splits, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(first.initial.trunk[0][0], second.initial.trunk[0][0])
    assert [len(split.values) for split in first.splits] == [800, 100, 100, 800, 100, 100]


def test_the_limit_loops_take_the_same_steps():
    from benchmarks import limits, workloads

    workload = workloads.load("W1")
    losses: list[float] = []
    for contender in (limits.AutogradLimit(workload), limits.HandWrittenLimit(workload)):
        contender.fit()
        losses.append(workloads.mean_loss(workload, contender.weights()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] < 0.3 < workloads.mean_loss(workload, workload.initial)


@pytest.mark.parametrize("name", ["recognised", "any-graph", "plain", "limit"])
def test_accuracies_are_those_of_the_weights(name: str):
    from benchmarks import limits, workloads
    from benchmarks.contenders.plain import Plain
    from benchmarks.contenders.taskloom import Taskloom

    workload = workloads.load("W1").first_rows()
    build = {
        "recognised": Taskloom,
        "any-graph": lambda it: Taskloom(it, opaque=True),
        "plain": Plain,
        "limit": limits.HandWrittenLimit,
    }[name]
    contender = build(workload)
    contender.fit()
    weights, expected = contender.weights(), {}
    for split in workload.splits:
        values = split.values
        for weight, bias in weights.trunk:
            values = np.maximum(values @ weight.T + bias, 0)
        for task, labels in split.labels.items():
            weight, bias = weights.heads[task]
            expected[f"{task}/{split.split}"] = np.mean((values @ weight.T + bias).argmax(axis=1) == labels)
    assert contender.score() == pytest.approx(expected)
