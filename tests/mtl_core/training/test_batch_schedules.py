from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import DictDataLoader, DictDataset, SequentialScheduler, ShuffledScheduler
from mtl_core.training.batch_schedules import (
    AnnealedScheduler,
    JointScheduler,
    ProportionalScheduler,
    RoundRobinScheduler,
    Scheduler,
)

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=5)


def loaders(lengths: list[int]) -> list[DictDataLoader]:
    """One loader for each length, of examples numbered through all of them; 0 gives one batch of three."""
    made: list[DictDataLoader] = []
    start = 0
    for i, length in enumerate(lengths):
        rows = torch.arange(start, start + 3 + length)
        start += len(rows)
        made.append(
            DictDataLoader(
                DictDataset(f"d{i}", "train", {"x": rows}, {"t": rows}), batch_size=3, shuffle=True
            )
        )
    return made


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_schedules_without_chance_of_repeats_visit_every_example_exactly_once_an_epoch(
    lengths: list[int], seed: int
) -> None:
    torch.manual_seed(seed)
    data = loaders(lengths)
    for scheduler in (ShuffledScheduler(), SequentialScheduler(), RoundRobinScheduler()):
        seen: list[int] = []
        for (X_dict, _), loader in scheduler.get_batches(data):
            assert any(loader is known for known in data)
            assert set(X_dict["x"].tolist()) <= set(loader.dataset.X_dict["x"].tolist())
            seen += X_dict["x"].tolist()
        assert sorted(seen) == list(range(sum(len(loader.dataset) for loader in data)))


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_every_order_holds_each_loader_as_often_as_it_has_batches(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    schedulers: list[Scheduler] = [ShuffledScheduler(), SequentialScheduler(), RoundRobinScheduler()]
    for scheduler in schedulers:
        assert Counter(scheduler.order(lengths)) == {i: n for i, n in enumerate(lengths) if n}
    assert SequentialScheduler().order(lengths) == sorted(SequentialScheduler().order(lengths))


def test_shuffling_mixes_loaders_in_proportion_and_by_the_seed() -> None:
    torch.manual_seed(3)
    first = ShuffledScheduler().order([300, 100])
    assert first != sorted(first)
    # Of any stretch about a quarter is the shorter loader's.
    assert 10 <= sum(first[:80]) <= 32
    assert ShuffledScheduler().order([300, 100]) != first
    torch.manual_seed(3)
    assert ShuffledScheduler().order([300, 100]) == first


def test_a_round_robin_passes_over_loaders_that_are_through() -> None:
    assert RoundRobinScheduler().order([3, 0, 1, 2]) == [0, 2, 3, 0, 3, 0]


@given(lengths=LENGTHS.filter(any), seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_schedules_that_draw_make_epochs_of_all_batches_and_pass_empty_loaders_by(
    lengths: list[int], seed: int, share: float
) -> None:
    torch.manual_seed(seed)
    annealed = AnnealedScheduler(final_exponent=0.0)
    annealed.progress = share
    for scheduler in (ProportionalScheduler(), ProportionalScheduler(1e6), annealed):
        order = scheduler.order(lengths)
        assert len(order) == scheduler.n_steps(lengths) == sum(lengths)
        assert all(lengths[index] for index in order)


def share_of_the_larger(scheduler: Scheduler) -> float:
    torch.manual_seed(0)
    return scheduler.order([8000, 2000]).count(0) / 10_000


def test_temperature_draws_small_loaders_as_often_as_large_ones() -> None:
    assert abs(share_of_the_larger(ProportionalScheduler()) - 0.8) < 0.02
    assert abs(share_of_the_larger(ProportionalScheduler(2.0)) - 2 / 3) < 0.02
    assert abs(share_of_the_larger(ProportionalScheduler(1e6)) - 0.5) < 0.02


def test_annealing_goes_from_size_to_all_alike() -> None:
    scheduler = AnnealedScheduler(final_exponent=0.0)
    for progress, share in [(0.0, 0.8), (0.5, 2 / 3), (1.0, 0.5)]:
        scheduler.progress = progress
        assert abs(share_of_the_larger(scheduler) - share) < 0.02


def test_a_joint_step_has_a_batch_of_every_loader_and_shorter_ones_start_anew() -> None:
    torch.manual_seed(0)
    # Of three batches, one, and none.
    data = loaders([6, 0])
    data.append(DictDataLoader(DictDataset("empty", "train", {"x": torch.zeros(0)}, {}), batch_size=3))
    scheduler = JointScheduler()
    steps = list(scheduler.get_steps(data))
    assert len(steps) == scheduler.n_steps([3, 1, 0]) == 3
    assert [[loader.dataset.name for _, loader in step] for step in steps] == [["d0", "d1"]] * 3
    seen = {
        name: [
            x
            for step in steps
            for (X, _), loader in step
            if loader.dataset.name == name
            for x in X["x"].tolist()
        ]
        for name in ("d0", "d1")
    }
    assert sorted(seen["d0"]) == list(range(9))
    assert sorted(seen["d1"]) == sorted([9, 10, 11] * 3)
