from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.session import Database, database_now
from app.db.tables import Model, Run, RunEvent
from app.runs import lease, service
from app.runs.events import Event
from app.runs.lease import Claim, LeaseLostError, Watch
from app.runs.snapshots import keep

LEASE = 10.0


class Clock:
    """A clock that tests move on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A worker that claims, and watches the others."""

    def __init__(self, db: Database, name: str = "w", attempts: int = 3) -> None:
        self.db = db
        self.clock = Clock()
        self.name = name
        self.watch = Watch(self.clock)
        self.attempts = attempts

    def look(self) -> Claim | None:
        """Look for a run once."""
        with self.db.write() as session:
            return lease.claim(session, self.name, self.watch, LEASE, self.attempts)

    def claim(self) -> Claim:
        """Look for a run that must be there."""
        found = self.look()
        assert found is not None
        return found

    def wait(self, seconds: float = LEASE) -> Claim | None:
        """Look again and again for some time, and return what is found at its end."""
        assert self.look() is None
        for _ in range(10):
            self.clock.now += seconds / 11
            assert self.look() is None
        self.clock.now += seconds / 11 + 1e-6
        return self.look()


def queue(db: Database, *ids: str, **of_all: Any) -> None:
    with db.write() as session:
        if session.get(Model, "m") is None:
            session.add(Model(name="m"))
            session.flush()
        session.add_all(
            Run(id=run, model="m", kind="train", status="queued", request={}, job={}, **of_all) for run in ids
        )


def change(db: Database, run: str, **values: Any) -> None:
    with db.write() as session:
        session.execute(update(Run).where(Run.id == run).values(**values))


def row(db: Database, run: str) -> Run:
    with db.read() as session:
        return session.get_one(Run, run)


def statuses(db: Database, run: str) -> list[str]:
    with db.read() as session:
        events = session.scalars(select(RunEvent).where(RunEvent.run == run).order_by(RunEvent.seq)).all()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.data["status"] for event in events if event.kind == "status"]


def outcomes(db: Database, run: str) -> list[str | None]:
    return [attempt["outcome"] for attempt in row(db, run).attempts]


def test_the_oldest_run_goes_first_and_each_to_one_worker(db: Database) -> None:
    queue(db, "b", "a", "c")
    worker = Worker(db)
    assert [worker.claim().run for _ in range(3)] == ["a", "b", "c"]
    assert worker.look() is None
    held = row(db, "a")
    assert (held.status, held.worker, held.attempt, held.fence) == ("running", "w", 1, 1)
    assert held.started_at is not None
    assert [(a["number"], a["worker"], a["outcome"]) for a in held.attempts] == [(1, "w", None)]


def test_a_higher_priority_goes_first(db: Database) -> None:
    queue(db, "a", "b")
    queue(db, "c", priority=5)
    queue(db, "d", priority=-5)
    assert [Worker(db).claim().run for _ in range(4)] == ["c", "a", "b", "d"]


def test_clients_take_turns_whoever_has_more_waiting(db: Database) -> None:
    queue(db, *(f"a{i}" for i in range(6)), client="greedy")
    queue(db, "b0", "b1", client="modest")
    queue(db, "c0", client="third")
    worker, taken = Worker(db), []
    for _ in range(9):
        mine = worker.claim()
        taken.append(mine.run)
        with db.write() as session:
            lease.fail(session, mine, "done")
    assert taken == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_a_client_without_a_run_in_training_goes_before_one_that_has_some(db: Database) -> None:
    queue(db, "a0", "a1", "a2", client="greedy")
    queue(db, "b0", client="modest")
    assert [Worker(db).claim().run for _ in range(3)] == ["a0", "b0", "a1"]


def test_workers_that_claim_at_once_get_different_runs(db: Database) -> None:
    queue(db, *(f"run-{i:02}" for i in range(24)))
    barrier = Barrier(6)

    def work(number: int) -> list[str]:
        worker = Worker(db, f"w{number}")
        barrier.wait()
        found: list[str] = []
        while one := worker.look():
            found.append(one.run)
        return found

    with ThreadPoolExecutor(6) as threads:
        taken = [run for found in threads.map(work, range(6)) for run in found]
    assert sorted(taken) == [f"run-{i:02}" for i in range(24)]


def test_a_claim_skips_the_run_that_another_is_just_claiming(db: Database) -> None:
    if db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time: nobody can be just claiming")
    queue(db, "a", "b")
    with db.write() as session:
        assert lease.claim(session, "w1", Watch(), LEASE, 3) == Claim("a", 1, 1)
        assert Worker(db, "w2").look() == Claim("b", 1, 1)
        assert Worker(db, "w2").look() is None


def test_a_silent_workers_run_goes_to_another_and_the_silent_one_is_fenced_off(db: Database) -> None:
    queue(db, "a")
    lost = Worker(db, "silent").claim()
    other = Worker(db, "other")
    assert other.wait(LEASE - 1) is None
    assert other.wait(1) is not None
    with db.read() as session:
        run = session.get_one(Run, "a")
        taken = Claim("a", run.fence, run.attempt)
    assert (taken.run, taken.fence > lost.fence, taken.attempt) == ("a", True, 2)

    writes: list[Callable[[Session], object]] = [
        lambda s: lease.renew(s, lost),
        lambda s: lease.report(s, lost, {"step": 1}, [Event("log", {"message": "late"})]),
        lambda s: lease.fail(s, lost, "late"),
        lambda s: lease.crash(s, lost, "late", 3),
        lambda s: service.finish_scoring(s, lost, []),
        lambda s: service.keep_log(s, lost, "0" * 64),
        lambda s: keep(s, lost, "shared", "0" * 64, 7),
        lambda s: lease.hand_back(s, lost),
    ]
    for write in writes:
        with pytest.raises(LeaseLostError), db.write() as session:
            write(session)
    after = row(db, "a")
    assert (after.status, after.worker, after.progress, after.error) == ("running", "other", None, None)
    assert (after.log, after.snapshots) == (None, None)
    assert statuses(db, "a") == ["running", "running"]
    assert outcomes(db, "a") == ["lost", None]
    with db.write() as session:
        assert lease.report(session, taken, {"step": 1}, []) == "running"
    assert row(db, "a").progress == {"step": 1}


def test_a_worker_that_gives_signs_of_life_keeps_its_run(db: Database) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    other = Worker(db, "other")
    for _ in range(5):
        assert other.wait(LEASE - 1) is None
        with db.write() as session:
            assert lease.renew(session, mine) == "running"
    assert other.look() is None


def test_a_sign_of_life_in_the_last_moment_counts(db: Database) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    other = Worker(db, "other")
    assert other.wait(LEASE - 0.1) is None
    other.clock.now += 0.1
    with db.write() as session:
        lease.renew(session, mine)
    assert other.look() is None


def test_a_run_whose_own_worker_does_not_know_of_it_is_taken_up_again(db: Database) -> None:
    queue(db, "a")
    worker = Worker(db)
    # As when the connection breaks after the claim was written, and before that was confirmed.
    worker.claim()
    again = worker.wait()
    assert again is not None
    assert (again.run, again.attempt) == ("a", 2)


def test_time_in_which_nobody_could_look_does_not_count_against_a_worker(db: Database) -> None:
    queue(db, "a")
    Worker(db).claim()
    other = Worker(db, "other")
    assert other.wait(LEASE / 2) is None
    other.clock.now += 100 * LEASE
    assert other.look() is None
    assert other.wait(LEASE / 2) is not None


def test_a_run_that_is_lost_too_often_fails(db: Database) -> None:
    queue(db, "a", "b")
    assert Worker(db, "w1").claim() == Claim("a", 1, 1)
    assert Worker(db, "w1").claim().run == "b"
    with db.write() as session:
        lease.fail(session, Claim("b", 1, 1), "done")
    second = Worker(db, "w2", attempts=2).wait()
    assert second is not None
    assert (second.run, second.attempt) == ("a", 2)
    assert Worker(db, "w3", attempts=2).wait() is None
    failed = row(db, "a")
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["detail"] == (
        "it broke down 2 times in a row, the last time because its worker 'w2' was lost"
    )
    assert statuses(db, "a") == ["running", "running", "failed"]
    assert outcomes(db, "a") == ["lost", "lost"]


def test_a_run_that_crashes_waits_longer_each_time_and_fails_in_the_end(db: Database) -> None:
    queue(db, "a")
    worker = Worker(db)
    waits: list[float] = []
    for number in range(1, 5):
        mine = worker.claim()
        assert mine.attempt == number
        with db.write() as session:
            now = database_now(session)
            lease.crash(session, mine, "it was killed", max_attempts=5)
        waiting = row(db, "a")
        assert waiting.status == "queued"
        assert waiting.not_before is not None
        waits.append((waiting.not_before - now).total_seconds())
        if number > 2:
            # Before that, a second is over soon on a machine that has much to do.
            assert worker.look() is None
        change(db, "a", not_before=now)
    assert waits == pytest.approx([1, 2, 4, 8], abs=0.5)
    last = worker.claim()
    with db.write() as session:
        lease.crash(session, last, "it was killed", max_attempts=5)
    error = row(db, "a").error
    assert error is not None
    assert error["detail"] == "it broke down 5 times in a row, the last time because it was killed"
    assert outcomes(db, "a") == ["crashed"] * 5
    assert [attempt["reason"] for attempt in row(db, "a").attempts] == ["it was killed"] * 5


def test_a_run_that_got_further_has_not_crashed_in_vain(db: Database) -> None:
    queue(db, "a")
    worker = Worker(db)
    for step in (10, 20, 30, 30, 30):
        mine = worker.claim()
        with db.write() as session:
            keep(session, mine, "shared", f"{step:064}", step)
        with db.write() as session:
            lease.crash(session, mine, "it was killed", max_attempts=3)
        change(db, "a", not_before=None)
    assert row(db, "a").status == "failed"


def test_a_clock_that_went_wrong_keeps_no_run_from_being_tried_again(db: Database) -> None:
    queue(db, "a")
    with db.read() as session:
        change(db, "a", not_before=database_now(session) + timedelta(hours=1))
    assert Worker(db).claim().run == "a"


def test_a_run_that_was_being_cancelled_is_cancelled_when_its_worker_is_lost(db: Database) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    with db.write() as session:
        service.cancel(session, session.get_one(Run, "a"))
    with db.write() as session:
        assert lease.renew(session, mine) == "cancelling"
        assert lease.cancelled(session, [mine]) == {"a"}
    assert Worker(db, "other").wait() is None
    assert statuses(db, "a") == ["running", "cancelling", "cancelled"]


@pytest.mark.parametrize("how", ["crash", "fail", "hand_back"])
def test_a_run_that_ends_in_any_way_while_it_is_cancelled_is_cancelled(db: Database, how: str) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    with db.write() as session:
        service.cancel(session, session.get_one(Run, "a"))
    arguments: dict[str, tuple[Any, ...]] = {"crash": ("killed", 3), "fail": ("bad",), "hand_back": ()}
    with db.write() as session:
        getattr(lease, how)(session, mine, *arguments[how])
    assert row(db, "a").status == "cancelled"
    assert outcomes(db, "a") == ["cancelled"]
    assert Worker(db).look() is None


def test_a_run_that_is_handed_back_waits_again_at_no_cost(db: Database) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    with db.write() as session:
        assert lease.hand_back(session, mine) == "queued"
    waiting = row(db, "a")
    assert (waiting.status, waiting.crashes, waiting.worker) == ("queued", 0, None)
    with pytest.raises(LeaseLostError), db.write() as session:
        lease.renew(session, mine)
    assert Worker(db, "other").claim().attempt == 2
    assert outcomes(db, "a") == ["handed back", None]


def test_a_run_that_ended_is_nobodys(db: Database) -> None:
    queue(db, "a")
    mine = Worker(db).claim()
    with db.write() as session:
        lease.fail(session, mine, "on purpose")
    assert Worker(db, "other").wait() is None
    with pytest.raises(LeaseLostError), db.write() as session:
        lease.renew(session, mine)
