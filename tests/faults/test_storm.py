"""The fault suite. ``make faults`` runs all of it, in up to 20 minutes; without that, a sample of some 3 minutes.

What it injected, and what came of it, is printed at the end: ``pytest -s``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import Postgres
from tests.faults.storm import IS_FULL, Fleet, Storm, Summary, restart_postgres
from tests.service.client import OVER
from tests.service.processes import until
from tests.service.shapes import Shapes

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "bit-flipped": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "emptied": lambda _: b"",
}


@dataclass(frozen=True)
class Size:
    """How much of something the whole suite does, and the sample."""

    full: int
    sample: int

    @property
    def now(self) -> int:
        return self.full if IS_FULL else self.sample


@pytest.fixture(scope="module")
def total() -> Iterator[Summary]:
    total = Summary()
    yield total
    print(f"\n\n{'The whole fault suite' if IS_FULL else 'A sample of the fault suite'}\n{total}")


def on(*sample: str) -> pytest.MarkDecorator:
    """Have a test run on both database systems; in the sample, on those that are named."""
    chosen = ["sqlite", "postgresql"] if IS_FULL else list(sample)
    return pytest.mark.parametrize("database", chosen, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def new_url(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Return what makes empty databases of the system and answers their URLs."""
    if database == "postgresql":
        return request.getfixturevalue("postgres").new_database
    return lambda: f"sqlite:///{tmp_path_factory.mktemp('database') / 'taskloom.db'}"


@pytest.fixture(scope="module")
def fleets() -> Iterator[dict[str, Fleet]]:
    """The fleets by database system; they stay through all that happens, since starting one takes as long."""
    fleets: dict[str, Fleet] = {}
    yield fleets
    for fleet in fleets.values():
        fleet.stop()


@pytest.fixture
def fleet(
    database: str,
    new_url: Callable[[], str],
    fleets: dict[str, Fleet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Fleet:
    if database not in fleets:
        fleets[database] = Fleet(tmp_path_factory.mktemp("fleet"), new_url())
    fleets[database].ready()
    return fleets[database]


def settle(storm: Storm, total: Summary) -> None:
    total.add(storm.summary)
    print(f"\n{storm.summary}")
    storm.summary.check()


@on("sqlite")
def test_processes_are_killed_at_random_moments(fleet: Fleet, total: Summary) -> None:
    storm = Storm(fleet, seed=1)
    kinds = {fleet.kill_child: 14, fleet.kill_worker: 2, fleet.kill_server: 1}
    storm.rage(Size(26, 3).now, Size(104, 8).now, kinds, pause=(0.3, 1.2))
    settle(storm, total)


@on("postgresql")
def test_everything_is_restarted_in_turn_as_operators_do(fleet: Fleet, total: Summary) -> None:
    storm = Storm(fleet, seed=2)
    storm.rage(
        Size(8, 2).now, Size(12, 3).now, {fleet.stop_worker: 2, fleet.stop_server: 1}, pause=(0.5, 2.0)
    )
    settle(storm, total)


@on("postgresql")
def test_the_database_is_away_for_a_while(
    fleet: Fleet, total: Summary, request: pytest.FixtureRequest
) -> None:
    storm = Storm(fleet, seed=3)
    if fleet.database_url.startswith("sqlite"):
        kinds: dict[Callable[[], bool], int] = {fleet.hold_database: 1}
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        kinds = {fleet.cut_connections: 4, restart_postgres(postgres): 1}
    storm.rage(Size(8, 2).now, Size(16, 4).now, kinds, pause=(0.3, 1.2))
    settle(storm, total)


def broken_off(storm: Storm, number: int = 0) -> tuple[str, int]:
    """Start a run that has two snapshots, and return it with its process."""
    run = storm.fleet.start(number)
    names: set[str] = set()

    def has_two() -> bool:
        names.update(str(storm.api.run(run)["resumable_from"] or "") for _ in range(2))
        return len(names - {""}) > 1

    until(has_two, f"two snapshots of {run}")
    claims = [line for worker in storm.fleet.workers for line in worker.claims(run)]
    return run, claims[-1]["pid"]


def ends_like_the_whole(storm: Storm, run: str, number: int = 0) -> None:
    storm.summary.runs += 1
    storm.summary.lost += storm.api.ended(run)["status"] != "succeeded"
    storm.summary.different += storm.api.result(run) != storm.fleet.whole(number)


def newest_snapshots(fleet: Fleet, n: int) -> list[Path]:
    """Return the files that were written last which are snapshots."""
    files = [
        path for path in fleet.artifacts.glob("??/*") if b'"format":"taskloom-snapshot' in path.read_bytes()
    ]
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)[-n:]


@on("sqlite")
def test_snapshots_are_damaged(fleet: Fleet, total: Summary) -> None:
    storm = Storm(fleet, seed=4)
    for how, damage in list(DAMAGE.items())[: Size(3, 1).now]:
        for n in (1, 2) if IS_FULL else (1,):
            run, pid = broken_off(storm)
            # Stopped, so that what is damaged is what it goes on from.
            os.kill(pid, signal.SIGSTOP)
            for path in newest_snapshots(fleet, n):
                path.write_bytes(damage(path.read_bytes()))
            os.kill(pid, signal.SIGKILL)
            storm.summary.faults[f"snapshot {how}"] += n
            ends_like_the_whole(storm, run)
    settle(storm, total)


@on("postgresql")
def test_a_worker_that_sleeps_through_its_lease_is_fenced_off(fleet: Fleet, total: Summary) -> None:
    storm = Storm(fleet, seed=5)
    run, pid = broken_off(storm, 1)
    [holder] = [worker for worker in fleet.workers if any(worker.claims(run))]
    for process in (holder.pid, pid):
        os.kill(process, signal.SIGSTOP)
    other = next(worker for worker in fleet.workers if worker is not holder)
    until(lambda: any(other.claims(run)), "the other worker to take the run")
    for process in (holder.pid, pid):
        os.kill(process, signal.SIGCONT)
    storm.summary.faults["worker asleep"] += 1
    ends_like_the_whole(storm, run, 1)
    until(lambda: holder.lines("lease lost, stopping", run_id=run), "the sleeper to notice")
    outcomes = [attempt["outcome"] for attempt in storm.api.run(run)["attempts"]]
    assert outcomes == ["lost", "succeeded"]
    settle(storm, total)


@on("postgresql")
def test_workers_that_race_train_each_of_many_runs_once(fleet: Fleet, total: Summary) -> None:
    api, n = fleet.api, Size(500, 20).now
    shapes = Shapes(api).make("circle", n=8)
    body = {"datasets": [shapes.dataset("circle")], "trainer": {"n_epochs": 1, "seed": 1}, "init_from": None}
    runs = [api.post(f"/v1/models/{shapes.model}/runs", body, 202)["id"] for _ in range(n)]
    until(lambda: api.run(runs[-1])["status"] in OVER, "the last run to be over", 600)
    ended = [api.ended(run) for run in runs]
    claims = fleet.claims()
    versions = api.get(f"/v1/models/{shapes.model}")["versions"]
    weights = {
        api.get(f"/v1/models/{shapes.model}/versions/{run['model_version']}")["sha256"] for run in ended
    }
    summary = Summary(runs=n, different=len(weights) - 1)
    summary.doubled = sum(claims[run] != 1 for run in runs) + abs(n - len(versions))
    total.add(summary)
    summary.check()
    shares = [sum(line["run_id"] in runs for line in worker.claims()) for worker in fleet.workers]
    assert min(shares) > n / 10, shares


def fill(path: Path) -> None:
    """Write to a file until its file system has no more room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@on("sqlite")
def test_the_disk_is_full_when_a_snapshot_is_due(
    new_url: Callable[[], str], tmp_path: Path, total: Summary
) -> None:
    artifacts = tmp_path / "data" / "artifacts"
    artifacts.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", artifacts], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user cannot mount a small file system")
    fleet = None
    try:
        fleet = Fleet(tmp_path, new_url(), n_workers=1)
        storm = Storm(fleet, seed=6)
        run, _ = broken_off(storm)
        filler = artifacts / "filler"
        fill(filler)
        until(
            lambda: any("No space left" in line["event"] for line in fleet.workers[0].lines()),
            "a full disk",
        )
        storm.summary.faults["disk full"] += 1
        assert storm.api.run(run)["status"] == "running"
        filler.unlink()
        ends_like_the_whole(storm, run)
        settle(storm, total)
    finally:
        if fleet:
            fleet.stop()
        subprocess.run(["umount", artifacts], check=True)


@on("sqlite")
def test_the_clock_of_a_worker_jumps(fleet: Fleet, tmp_path: Path, total: Summary) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("needs the package faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # What measures durations is set by nobody.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    fast = fleet.stop_worker_for(**faked)
    fleet.ready()

    def clock_jumps() -> bool:
        clock.write_text({"+0": "+3600", "+3600": "-3600", "-3600": "+0"}[clock.read_text()])
        return True

    storm = Storm(fleet, seed=7)
    storm.rage(Size(8, 2).now, Size(12, 4).now, {clock_jumps: 3, fleet.kill_child: 2}, pause=(0.4, 1.0))
    settle(storm, total)
    # It took part, and its clock did jump; another that it stays wrong for makes no difference.
    assert any(fast.claims())
    hours = {datetime.fromisoformat(line["timestamp"]).hour for line in fast.lines()}
    assert len(hours) > 1
