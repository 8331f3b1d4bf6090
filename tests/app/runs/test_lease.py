from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import select, update

from app.db.session import Database, database_now
from app.db.tables import Model, Run, RunEvent
from app.runs import lease, service
from app.runs.events import Event
from app.runs.lease import Claim, LeaseLostError

LONG = 3600.0


def queue(db: Database, *ids: str) -> None:
    with db.write() as session:
        session.add(Model(name="m"))
        session.flush()
        session.add_all(
            Run(id=run, model="m", kind="train", status="queued", request={}, job={}) for run in ids
        )


def claim(db: Database, worker: str = "w", seconds: float = LONG, attempts: int = 3) -> Claim | None:
    with db.write() as session:
        return lease.claim(session, worker, seconds, attempts)


def claimed(db: Database, worker: str = "w") -> Claim:
    found = claim(db, worker)
    assert found is not None
    return found


def run_out(db: Database, run: str) -> None:
    """Have a lease run out."""
    with db.write() as session:
        past = database_now(session) - timedelta(seconds=1)
        session.execute(update(Run).where(Run.id == run).values(lease_until=past))


def row(db: Database, run: str) -> Run:
    with db.read() as session:
        return session.get_one(Run, run)


def statuses(db: Database, run: str) -> list[str]:
    with db.read() as session:
        events = session.scalars(select(RunEvent).where(RunEvent.run == run).order_by(RunEvent.seq)).all()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.data["status"] for event in events if event.kind == "status"]


def test_the_oldest_run_goes_first_and_each_to_one_worker(db: Database) -> None:
    queue(db, "b", "a", "c")
    assert [claimed(db).run for _ in range(3)] == ["a", "b", "c"]
    assert claim(db) is None
    held = row(db, "a")
    assert (held.status, held.worker, held.attempt, held.fence) == ("running", "w", 1, 1)
    assert held.started_at is not None
    assert held.lease_until is not None


def test_workers_that_claim_at_once_get_different_runs(db: Database) -> None:
    queue(db, *(f"run-{i:02}" for i in range(24)))
    barrier = Barrier(6)

    def work(worker: int) -> list[str]:
        barrier.wait()
        found: list[str] = []
        while one := claim(db, f"w{worker}"):
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
        assert lease.claim(session, "w1", LONG, 3) == Claim("a", 1, 1)
        assert claim(db, "w2") == Claim("b", 1, 1)
        assert claim(db, "w2") is None


def test_a_silent_workers_run_goes_to_another_and_the_silent_one_is_fenced_off(db: Database) -> None:
    queue(db, "a")
    lost = claimed(db, "silent")
    assert claim(db, "other") is None
    run_out(db, "a")
    taken = claimed(db, "other")
    assert (taken.run, taken.fence, taken.attempt) == ("a", lost.fence + 1, 2)

    def write_all(mine: Claim) -> None:
        for action in (
            lambda s: lease.renew(s, mine, LONG),
            lambda s: lease.report(s, mine, {"step": 1}, [Event("log", {"message": "late"})]),
            lambda s: lease.fail(s, mine, "late"),
            lambda s: lease.stop_cancelled(s, mine),
            lambda s: service.finish_scoring(s, mine, []),
            lambda s: lease.hand_back(s, mine),
        ):
            with pytest.raises(LeaseLostError), db.write() as session:
                action(session)

    write_all(lost)
    after = row(db, "a")
    assert (after.status, after.worker, after.progress, after.error) == ("running", "other", None, None)
    assert statuses(db, "a") == ["running", "running"]
    with db.write() as session:
        assert lease.report(session, taken, {"step": 1}, []) == "running"
    assert row(db, "a").progress == {"step": 1}


def test_a_lease_that_is_renewed_is_kept(db: Database) -> None:
    queue(db, "a")
    mine = claimed(db)
    run_out(db, "a")
    # Nobody has taken it meanwhile, so it is still this worker's.
    with db.write() as session:
        assert lease.renew(session, mine, LONG) == "running"
    assert claim(db, "other") is None


def test_a_run_that_is_lost_too_often_fails(db: Database) -> None:
    queue(db, "a", "b")
    for attempt in (1, 2):
        found = claim(db, f"w{attempt}", attempts=2)
        assert found == Claim("a", attempt, attempt)
        run_out(db, "a")
    assert claim(db, "w3", attempts=2) == Claim("b", 1, 1)
    failed = row(db, "a")
    assert failed.status == "failed"
    assert failed.error is not None
    assert "2 times" in failed.error["detail"]
    assert "'w2'" in failed.error["detail"]
    assert statuses(db, "a") == ["running", "running", "failed"]


def test_a_run_that_was_being_cancelled_is_cancelled_when_its_worker_is_lost(db: Database) -> None:
    queue(db, "a")
    mine = claimed(db)
    with db.write() as session:
        service.cancel(session, session.get_one(Run, "a"))
    with db.write() as session:
        assert lease.renew(session, mine, LONG) == "cancelling"
    run_out(db, "a")
    assert claim(db, "other") is None
    assert statuses(db, "a") == ["running", "cancelling", "cancelled"]


def test_a_run_that_is_handed_back_waits_again_at_no_cost(db: Database) -> None:
    queue(db, "a")
    mine = claimed(db)
    with db.write() as session:
        lease.hand_back(session, mine)
    waiting = row(db, "a")
    assert (waiting.status, waiting.attempt, waiting.worker, waiting.lease_until) == ("queued", 0, None, None)
    with pytest.raises(LeaseLostError), db.write() as session:
        lease.renew(session, mine, LONG)
    assert claimed(db, "other").attempt == 1


def test_a_run_that_is_handed_back_while_it_is_cancelled_is_cancelled(db: Database) -> None:
    queue(db, "a")
    mine = claimed(db)
    with db.write() as session:
        service.cancel(session, session.get_one(Run, "a"))
    with db.write() as session:
        lease.hand_back(session, mine)
    assert row(db, "a").status == "cancelled"
    assert claim(db) is None


def test_a_run_that_ended_is_nobodys(db: Database) -> None:
    queue(db, "a")
    mine = claimed(db)
    with db.write() as session:
        lease.fail(session, mine, "on purpose")
    run_out(db, "a")
    assert claim(db, "other") is None
    with pytest.raises(LeaseLostError), db.write() as session:
        lease.renew(session, mine, LONG)
