from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import MultitaskClassifier
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter


@pytest.mark.parametrize(
    ("unit", "freq", "batches_per_epoch", "totals"),
    [("points", 10, 10, (25, 4, 0.4)), ("batches", 2, 5, (25, 4, 0.8)), ("epochs", 1, 2, (25, 4, 2.0))],
)
def test_evaluations_and_checkpoints_are_due_in_each_unit(
    tmp_path: Path, unit: Any, freq: float, batches_per_epoch: int, totals: tuple[int, int, float]
) -> None:
    settings = {"counter_unit": unit, "evaluation_freq": freq}
    checkpointer = Checkpointer(**settings, checkpoint_dir=str(tmp_path), checkpoint_factor=2)
    manager = LogManager(batches_per_epoch, checkpointer=checkpointer, **settings)
    due: list[tuple[bool, bool]] = []
    for size in (5, 5, 10, 5):
        manager.update(size)
        due.append((manager.trigger_evaluation(), manager.trigger_checkpointing()))
    expected = [False, True, True, False] if unit == "points" else [False, True, False, True]
    assert [evaluation for evaluation, _ in due] == expected
    last = [index for index, evaluation in enumerate(expected) if evaluation][1]
    assert [index for index, (_, checkpoint) in enumerate(due) if checkpoint] == [last]
    assert (manager.point_total, manager.batch_total, manager.epoch_total) == totals
    assert manager.batch_count == (1 if unit == "points" else 0)


@given(st.integers(1, 60), st.integers(1, 12))
def test_fractions_of_an_epoch_do_not_slip(batches_per_epoch: int, a_epoch: int) -> None:
    manager = LogManager(batches_per_epoch, evaluation_freq=1 / a_epoch)
    due = 0
    for _ in range(3 * batches_per_epoch):
        manager.update(1)
        due += manager.trigger_evaluation()
    assert due == 3 * min(a_epoch, batches_per_epoch)


def test_the_last_evaluation_is_always_due() -> None:
    manager = LogManager(10)
    manager.update(4)
    assert not manager.trigger_evaluation()
    assert manager.trigger_evaluation(last=True)
    assert manager.trigger_count == 1
    assert (manager.point_count, manager.unit_count, manager.point_total) == (0, 0, 4)


def test_without_a_checkpointer_no_checkpoint_is_due() -> None:
    manager = LogManager(1)
    manager.update(1)
    assert manager.trigger_evaluation()
    assert not manager.trigger_checkpointing()


def test_cleanup_closes_the_log_and_returns_the_model(tmp_path: Path) -> None:
    writer = LogWriter(log_dir=str(tmp_path), run_name="run")
    checkpointer = Checkpointer("epochs", 1, checkpoint_dir=str(tmp_path / "checkpoints"))
    model = MultitaskClassifier([], device=-1)
    assert LogManager(2, writer, checkpointer).cleanup(model) is model
    assert (tmp_path / "run" / "log.json").read_text() == "{}"


@pytest.mark.parametrize("settings", [{"counter_unit": "macaroni"}, {"evaluation_freq": 0}, {"every": 1}])
def test_what_is_no_setting_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LogManager(2, **settings)
