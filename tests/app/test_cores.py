from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cores import usable_cores
from app.settings import Settings
from app.worker.execution import threads_of


@pytest.fixture
def pinned() -> int:
    return len(os.sched_getaffinity(0))


def quota(folder: Path, version: int, quota: str) -> Path:
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (folder / "cpu").mkdir()
        (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    return folder


@pytest.mark.parametrize(("version", "unlimited"), [(1, "-1"), (2, "max")])
def test_a_group_without_a_quota_leaves_all_cores(
    tmp_path: Path, pinned: int, version: int, unlimited: str
) -> None:
    assert usable_cores(tmp_path) == pinned
    assert usable_cores(quota(tmp_path, version, unlimited)) == pinned


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("micros", "cores"), [("100000", 1), ("199999", 1), ("50000", 1), ("100000000", None)]
)
def test_a_quota_counts_in_whole_cores(
    tmp_path: Path, pinned: int, version: int, micros: str, cores: int | None
) -> None:
    assert usable_cores(quota(tmp_path, version, micros)) == (cores or pinned)


def test_cores_that_the_process_is_kept_from_do_not_count(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_training_takes_one_thread_beside_others_and_every_core_alone() -> None:
    assert threads_of(Settings(worker_slots=2, training_threads=0)) == 1
    assert threads_of(Settings(worker_slots=1, training_threads=0)) == usable_cores()
    assert threads_of(Settings(worker_slots=1, training_threads=3)) == 3
    assert threads_of(Settings(worker_slots=2, training_threads=3)) == 3
