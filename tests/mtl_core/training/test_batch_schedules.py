from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import DictDataLoader, DictDataset, SequentialScheduler, ShuffledScheduler
from mtl_core.training.batch_schedules import Scheduler

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
def test_both_schedules_visit_every_example_exactly_once_an_epoch(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    data = loaders(lengths)
    for scheduler in (ShuffledScheduler(), SequentialScheduler()):
        seen: list[int] = []
        for (X_dict, _), loader in scheduler.get_batches(data):
            assert any(loader is known for known in data)
            assert set(X_dict["x"].tolist()) <= set(loader.dataset.X_dict["x"].tolist())
            seen += X_dict["x"].tolist()
        assert sorted(seen) == list(range(sum(len(loader.dataset) for loader in data)))


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_every_order_holds_each_loader_as_often_as_it_has_batches(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    schedulers: list[Scheduler] = [ShuffledScheduler(), SequentialScheduler()]
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
