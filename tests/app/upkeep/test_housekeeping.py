from __future__ import annotations

import os
import time
from datetime import timedelta

from sqlalchemy import select

from app.db.session import Database, database_now
from app.db.tables import (
    Dataset,
    DatasetVersion,
    IdempotentAnswer,
    LoggedRequest,
    Model,
    Run,
    Split,
    Upload,
    Version,
)
from app.request_log.service import add, new_id
from app.runs.results import file_of
from app.storage.artifacts import ArtifactStore
from app.upkeep import housekeeping

LIVES = housekeeping.Lives(
    snapshots=timedelta(days=3), results=timedelta(days=30), requests=timedelta(days=1)
)


def age(store: ArtifactStore, sha256: str) -> str:
    past = time.time() - housekeeping.ARTIFACT_GRACE_SECONDS - 60
    os.utime(store.path(sha256), (past, past))
    return sha256


def test_only_what_nothing_refers_to_is_collected(db: Database, store: ArtifactStore) -> None:
    names = (
        *("raw", "read", "table", "assignment", "summary", "weights", "fitted", "queued", "queued fit"),
        *("resumable", "resumable fit", "newest snapshot", "snapshot before"),
    )
    used = {name: age(store, store.put(name.encode())) for name in names}
    finished, nobodys, old_snapshot = (
        age(store, store.put(name.encode())) for name in ("finished", "nobody's", "old snapshot")
    )
    young = store.put(b"young")

    def part(table: str, assignment: str | None, summary: str) -> dict[str, object]:
        return {"table": table, "assignment": assignment, "number": 0, "rows": 1, "summary": summary}

    def job(sha256: str, preprocessing: str) -> dict[str, object]:
        split = {"dataset": "gone", "version": 1, "split": "train", "sha256": "", "rows": 1, "tasks": []}
        split |= {"labels": {}, "fields": [], "weights": None, "parts": [part(sha256, None, sha256)]}
        return {"tasks": [], "splits": [split], "fields": {}, "preprocessing": preprocessing}

    with db.write() as session:
        common = {
            "rows": 1,
            "columns": [],
            "preview": [],
            "warnings": [],
            "options": {},
            "read_as": {},
            "bytes": 1,
        }
        session.add(Upload(id="u", sha256=used["raw"], options_key="", table=used["read"], **common))
        split = {
            "name": "train",
            "position": 0,
            "rows": 1,
            "fields": {},
            "labels": {},
            "columns": {},
            "overlap": [],
        }
        parts = [part(used["table"], used["assignment"], used["summary"])]
        version = DatasetVersion(
            number=1, sha256="", warnings=[], splits=[Split(**split, parts=parts, sha256="")]
        )
        session.add(Dataset(name="d", versions=[version]))
        session.add(Model(name="m"))
        session.flush()
        ended = database_now(session)
        run = {"model": "m", "kind": "train", "request": {}}
        snapshots = {"step": 7, "artifacts": {"shared": [used["newest snapshot"], used["snapshot before"]]}}
        stopped = ended - timedelta(days=2)
        session.add(
            Run(
                id="cancelled",
                status="cancelled",
                job=job(used["resumable"], used["resumable fit"]),
                snapshots=snapshots,
                finished_at=stopped,
                **run,
            )
        )
        forgotten = {"step": 7, "artifacts": {"shared": [old_snapshot]}}
        session.add(
            Run(
                id="forgotten",
                status="failed",
                job=job(finished, finished),
                snapshots=forgotten,
                finished_at=stopped - timedelta(days=2),
                **run,
            )
        )
        session.add(Run(id="queued", status="queued", job=job(used["queued"], used["queued fit"]), **run))
        session.add(
            Run(id="ended", status="succeeded", job=job(finished, finished), finished_at=ended, **run)
        )
        session.flush()
        made = {"tasks": [], "fields": {}, "parameters": 1, "bytes": 1, "preprocessing": used["fitted"]}
        session.add(Version(model="m", number=1, run="ended", sha256=used["weights"], **made))
    housekeeping.clean(db, store, LIVES)
    left = set(store.names())
    assert left == {*used.values(), young}
    assert {finished, nobodys, old_snapshot} & left == set()


def test_answers_to_idempotency_keys_are_kept_for_a_day(db: Database, store: ArtifactStore) -> None:
    with db.write() as session:
        now = database_now(session)
        for key, hours in (("old", 25), ("new", 23)):
            session.add(
                IdempotentAnswer(
                    key=key,
                    request="r",
                    status=202,
                    headers={},
                    body="",
                    created_at=now - timedelta(hours=hours),
                )
            )
    housekeeping.clean(db, store, LIVES)
    with db.read() as session:
        assert session.get(IdempotentAnswer, "old") is None
        assert session.get(IdempotentAnswer, "new")


def test_files_that_runs_ended_with_are_kept_for_their_time(db: Database, store: ArtifactStore) -> None:
    files = {name: age(store, store.put(name.encode())) for name in ("old", "new")}
    with db.write() as session:
        session.add(Model(name="m"))
        session.flush()
        now = database_now(session)
        for name, days in (("old", 31), ("new", 29)):
            file = {"sha256": files[name], "bytes": 1, "media_type": "application/zip", "filename": "f"}
            run = Run(id=name, model="m", kind="export", status="succeeded", request={}, job={})
            run.result, run.finished_at = file, now - timedelta(days=days)
            session.add(run)
    housekeeping.clean(db, store, LIVES)
    assert set(store.names()) == {files["new"]}
    with db.read() as session:
        old, new = session.get_one(Run, "old"), session.get_one(Run, "new")
        assert file_of(old) is None
        kept = file_of(new)
        assert kept is not None
        assert kept.sha256 == files["new"]


def test_logged_requests_are_kept_for_as_long_as_the_settings_say(db: Database, store: ArtifactStore) -> None:
    with db.write() as session:
        session.add(Model(name="m"))
        session.flush()
        over = {"status": "succeeded", "request": {}, "job": {}, "finished_at": database_now(session)}
        session.add(Run(id="r", model="m", kind="train", **over))
        session.flush()
        made = {"tasks": [], "fields": {}, "parameters": 1, "bytes": 1, "sha256": ""}
        session.add(Version(model="m", number=1, run="r", **made))
        session.flush()
        now = database_now(session)
        about = {"model": "m", "version": 1, "tasks": [], "seconds": 0.1, "rows": 1, "logged_rows": 1}
        about |= {"inputs": {}, "answers": {}, "created_at": now}
        ages = {"old": timedelta(hours=25), "young": timedelta(hours=23)}
        times = {name: int((now - age).timestamp() * 1e9) for name, age in ages.items()}
        add(session, [about | {"id": new_id(at), "request_id": name} for name, at in times.items()])
    housekeeping.clean(db, store, LIVES)
    with db.read() as session:
        assert session.scalars(select(LoggedRequest.request_id)).all() == ["young"]
