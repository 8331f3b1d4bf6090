from __future__ import annotations

import os
import time
from datetime import timedelta

from app.db.session import Database, database_now
from app.db.tables import Dataset, IdempotentAnswer, Model, Run, Split, Version
from app.storage.artifacts import ArtifactStore
from app.worker import housekeeping


def age(store: ArtifactStore, sha256: str) -> str:
    past = time.time() - housekeeping.ARTIFACT_GRACE_SECONDS - 60
    os.utime(store.path(sha256), (past, past))
    return sha256


def test_only_what_nothing_refers_to_is_collected(db: Database, store: ArtifactStore) -> None:
    split, version, queued, finished, nobodys = (
        age(store, store.put(name.encode()))
        for name in ("split", "version", "queued", "finished", "nobody's")
    )
    young = store.put(b"young")

    def job(sha256: str) -> dict[str, object]:
        splits = [{"dataset": "gone", "split": "train", "sha256": sha256, "tasks": []}]
        return {"tasks": [], "splits": splits, "fields": {}, "init_from": None}

    with db.write() as session:
        common = {"rows": 1, "fields": {}, "labels": {}, "bytes": 1}
        session.add(Dataset(name="d", splits=[Split(name="train", sha256=split, **common)]))
        session.add(Model(name="m"))
        session.flush()
        ended = database_now(session)
        run = {"model": "m", "kind": "train", "request": {}}
        session.add(Run(id="queued", status="queued", job=job(queued), **run))
        session.add(Run(id="ended", status="succeeded", job=job(finished), finished_at=ended, **run))
        session.flush()
        made = {"tasks": [], "fields": {}, "parameters": 1, "bytes": 1}
        session.add(Version(model="m", number=1, run="ended", sha256=version, **made))
    housekeeping.clean(db, store)
    left = {path.name for path in store.root.rglob("*") if path.is_file()}
    assert left == {split, version, queued, young}
    assert {finished, nobodys} & left == set()


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
    housekeeping.clean(db, store)
    with db.read() as session:
        assert session.get(IdempotentAnswer, "old") is None
        assert session.get(IdempotentAnswer, "new")
