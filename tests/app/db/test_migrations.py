from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select

from app.datasets import service as datasets
from app.db import migrations
from app.db.session import Database
from app.db.tables import Base, Run, Version
from app.models import service as models
from app.models.tasks import architecture_of, outline_of, report_of
from app.problems import Conflict
from app.runs import events, lease
from app.runs import service as runs
from app.runs.answers import run_out
from app.runs.lease import Claim, Watch
from app.runs.schemas import TrainIn, VerdictOut
from app.runs.trials import finish_trial
from app.runs.verdict import verdict_of
from app.scores.service import scores_by_key
from app.searches.keeper import Keeper
from app.searches.service import trials_of
from app.searches.state import SearchJob
from app.storage.artifacts import ArtifactStore, StoredTensors
from app.storage.encoders import SentenceEncoders
from app.upkeep.references import referenced_artifacts
from app.uploads import service as uploads
from mtl_core.building.tasks import Limits
from mtl_core.specs import TaskSpec
from tests.app.db.contents import content, downgrade, fill, without
from tests.app.db.revisions import CHANGED, OBJECTIVE, ROWS
from tests.app.db.rows import LABELLED, NOW, artifact

LEASE = 10.0


def assert_newest(db: Database) -> None:
    assert migrations.pending(db.engine) is None
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.fixture(params=list(ROWS))
def revision(request: pytest.FixtureRequest) -> str:
    return request.param


def test_no_row_is_lost_on_the_way_from_any_revision(empty_db: Database, revision: str) -> None:
    expected = without(fill(empty_db, revision), "runs", "lease_until")
    for run, changes in CHANGED[revision].items():
        expected["runs"][(run,)] |= changes
    if revision == "0001":
        # What was a file of tensors has to be registered again.
        expected |= {"datasets": {}, "splits": {}}
    migrations.upgrade(empty_db.engine)
    assert_newest(empty_db)
    after = content(empty_db)
    for name, rows in expected.items():
        assert after[name].keys() == rows.keys(), name
        assert {key: after[name][key] | row for key, row in rows.items()} == after[name]


def test_runs_of_any_revision_are_told_as_before(empty_db: Database, revision: str) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    has_data = revision != "0001"
    with empty_db.read() as session:
        rows = session.scalars(select(Run).where(Run.model == "m").order_by(Run.id)).all()
        told = [run_out(run) for run in rows]
        jobs = [runs.job_of(run) for run in rows]
        asked = [TrainIn.model_validate(run.request) for run in rows if run.kind == "train"]
        series = runs.metric_series(events.all_of(session, "run_1", "metrics"))
    were_not_over = ["running", "queued", "cancelling"] if has_data else ["cancelled"] * 3
    assert [run.status for run in told] == ["succeeded", "failed", *were_not_over, "succeeded"]
    assert [run.attempt for run in told] == [1, 1, 1, 0, 1, 1]
    assert told[0].progress is not None
    assert told[0].progress.fraction == 1
    assert [(ref.split, ref.rows) for ref in told[0].data] == [("train", 100), ("test", 8)]
    assert told[1].error is not None
    assert told[1].error["detail"] == "it diverged"
    assert [run.init_from for run in told] == [None, 1, None, 1, None, None]
    trained = [[spec.name for spec in job.tasks] for job in jobs]
    assert trained == [["t"], ["t"], ["t"], ["t3", "t2"], ["t"], ["t"]]
    assert {job.preprocessing for job in jobs} == {artifact("fitted") if has_data else ""}
    assert [ref.modules for ref in jobs[3].weights] == ([{"trunk": "trunk"}] if has_data else [])
    assert [(request.trainer.n_epochs, request.trainer.lr) for request in asked] == [(3, 0.02)] * 5
    assert {key: [point.value for point in points] for key, points in series.items()} == {
        "t/d/train/loss": [0.7],
        "t/d/valid/accuracy": [None],
    }


def test_models_of_any_revision_are_served_as_before(empty_db: Database, revision: str) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    with empty_db.read() as session:
        model = models.get(session, "m")
        version = models.find_version(session, model, "best")
        assert [spec.name for spec in models.specs_of(model)] == ["t3", "t2"]
        assert [report_of(link).parameters for link in model.tasks] == [{"trunk": 12, "head": 10}] * 2
        assert models.versions_of(session, model) == [version.number] == [1]
        assert models.default_version(session, model) == 1
        assert [TaskSpec.model_validate(spec).name for spec in version.tasks] == ["t"]
        scores = scores_by_key(session, "m", 1)
        kept = referenced_artifacts(session)
    assert scores["t/d/test/accuracy"] == 0.75
    assert scores["t/d/test/roc_auc"] is None
    assert artifact("weights") in kept
    # A run that is yet to be trained needs what it was to read.
    assert (artifact("of-train") in kept) == (revision != "0001")
    assert (artifact("log") in kept) == (revision >= "0003")


@pytest.mark.parametrize("revision", ["0002", "0003", "0004"], indirect=True)
def test_datasets_and_uploads_stay_what_they_were(empty_db: Database, revision: str) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    with empty_db.read() as session:
        newest = datasets.get(session, "d")
        known = datasets.known_of(newest)
        assert (newest.number, [split.name for split in newest.splits]) == (2, ["train", "test"])
        assert [split.rows for split in datasets.get(session, "d", 1).splits] == [100]
        assert uploads.get(session, "upl_1").rows == 108
    assert (known.meaning.weights, list(known.meaning.fields), set(known.labels)) == (
        "w",
        ["x"],
        set(LABELLED),
    )
    assert known.splitting is not None
    assert known.splitting.shares == {"train": 0.9, "test": 0.1}


class Worker:
    """A new worker, and a clock that the test moves on."""

    def __init__(self, db: Database) -> None:
        self.now = 0.0
        self._db = db
        self._watch = Watch(lambda: self.now)

    def look(self) -> Claim | None:
        with self._db.write() as session:
            return lease.claim(session, "new", self._watch, LEASE, 3)

    def look_for(self, seconds: float) -> list[Claim]:
        """Look every second, and give signs of life of what is found."""
        found: list[Claim] = []
        for _ in range(int(seconds) + 1):
            while claim := self.look():
                found.append(claim)
            with self._db.write() as session:
                for claim in found:
                    lease.renew(session, claim)
            self.now += 1.0
        return found


def test_what_waited_or_was_trained_when_the_service_stopped_goes_on(
    empty_db: Database, revision: str
) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    worker = Worker(empty_db)
    at_once = worker.look_for(LEASE - 1)
    after_a_lease = worker.look_for(1)
    if revision == "0001":
        # What they were to read is gone.
        assert at_once == after_a_lease == []
        return
    assert at_once == [Claim("run_4", fence=1, attempt=1)]
    # Their workers stopped with the service, but a new one only sees that they are silent.
    were_trained = ["run_3", "run_9"] if revision == "0004" else ["run_3"]
    assert [(claim.run, claim.attempt) for claim in after_a_lease] == [(run, 2) for run in were_trained]
    with empty_db.read() as session:
        taken, stopped = (run_out(session.get_one(Run, run)) for run in ("run_3", "run_5"))
        told = {run: [event.seq for event in events.after(session, run, 0)] for run in ("run_3", "run_5")}
    assert (taken.status, stopped.status) == ("running", "cancelled")
    assert [(attempt.number, attempt.outcome) for attempt in taken.attempts] == [(2, None)]
    assert told == {"run_3": [1, 2], "run_5": [1, 2]}


def test_what_failed_is_resumed_if_its_data_is_there(empty_db: Database, revision: str) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    with empty_db.write() as session:
        run = session.get_one(Run, "run_2")
        if revision == "0001":
            with pytest.raises(Conflict, match="register them again, and start a new run"):
                runs.resume(session, run)
        else:
            runs.resume(session, run)
            assert run_out(run).status == "queued"


def test_a_search_goes_on_where_it_stood(empty_db: Database, store: ArtifactStore) -> None:
    fill(empty_db, "0004")
    migrations.upgrade(empty_db.engine)
    keeper = Keeper(empty_db, store, SentenceEncoders({}), Limits())
    assert keeper.advance()
    worker = Worker(empty_db)
    (trial,) = [claim for claim in worker.look_for(LEASE) if claim.run == "run_9"]
    with empty_db.write() as session:
        finish_trial(session, trial, StoredTensors(artifact("better"), 22, 944), [], {OBJECTIVE: 0.5})
    assert keeper.advance()
    with empty_db.read() as session:
        search = session.get_one(Run, "run_7")
        found = trials_of(session, search)
        job = SearchJob.model_validate(search.job)
        version = session.get_one(Version, ("arch", 1))
    assert (search.status, search.model_version) == ("succeeded", 1)
    assert [(trial.run, trial.status, trial.value) for trial in found.trials] == [
        ("run_8", "succeeded", 0.6),
        ("run_9", "succeeded", 0.5),
    ]
    assert (version.run, version.sha256) == ("run_9", artifact("better"))
    assert (job.modules, job.train.datasets) == (["trunk", "head"], ["d@2"])


def test_architectures_and_verdicts_stay_what_they_were(empty_db: Database) -> None:
    fill(empty_db, "0004")
    migrations.upgrade(empty_db.engine)
    with empty_db.read() as session:
        model = models.get(session, "arch")
        (spec,) = models.specs_of(model)
        (link,) = model.tasks
        architecture = architecture_of(model)
        verdict = verdict_of(session.get_one(Run, "run_1"))
        (larger,) = models.expanded(model, {"layers": [8]})
    assert architecture is not None
    assert (architecture.type, outline_of(link).labels, spec.name) == ("shared_bottom", 2, "own")
    assert larger.name == "own"
    told = VerdictOut.model_validate({"run": "run_1", **verdict})
    assert [(task.task, task.word) for task in told.tasks] == [("t", "gains")]


def test_the_newest_migrations_are_undone_and_done_again_without_losing_a_row(
    empty_db: Database, revision: str
) -> None:
    fill(empty_db, revision)
    migrations.upgrade(empty_db.engine)
    Worker(empty_db).look()
    new = ("client", "priority", "crashes", "attempts", "snapshots", "beats", "not_before", "claimed_at")
    before = without(content(empty_db), "runs", *new)
    assert not any(row.pop("serving") for row in before["models"].values())
    assert before.pop("request_log") == {}
    downgrade(empty_db, "0004")
    undone = content(empty_db)
    assert without(undone, "runs", "lease_until") == before
    for row in undone["runs"].values():
        # An old worker takes at once what is being trained.
        assert row["lease_until"] == (NOW if row["status"] in lease.HELD else None)
    migrations.upgrade(empty_db.engine)
    assert_newest(empty_db)
    again = without(content(empty_db), "runs", *new)
    assert again.pop("request_log") == {}
    assert without(again, "models", "serving") == before


def test_to_go_back_before_there_were_searches_drops_them_and_models_of_architectures(
    empty_db: Database,
) -> None:
    fill(empty_db, "0004")
    downgrade(empty_db, "0003")
    left = content(empty_db)
    assert list(left["models"]) == [("m",)]
    assert {key: row["position"] for key, row in left["model_tasks"].items()} == {
        ("m", "t3"): 0,
        ("m", "t2"): 1,
    }
    assert sorted(left["runs"]) == [(f"run_{number}",) for number in range(1, 7)]
    migrations.upgrade(empty_db.engine)
    assert_newest(empty_db)


def test_to_go_back_to_the_first_revision_drops_datasets(empty_db: Database) -> None:
    fill(empty_db, "0002")
    downgrade(empty_db, "0001")
    left = content(empty_db)
    assert (left["datasets"], left["splits"]) == ({}, {})
    assert len(left["runs"]) == 6
    migrations.upgrade(empty_db.engine)
    assert_newest(empty_db)


def test_the_migrations_make_exactly_the_tables(db: Database) -> None:
    assert_newest(db)


def test_a_database_that_is_behind_says_what_to_do(empty_db: Database) -> None:
    behind = migrations.pending(empty_db.engine)
    assert behind is not None
    assert "taskloom db upgrade" in behind
    migrations.upgrade(empty_db.engine)
    assert migrations.pending(empty_db.engine) is None


def test_processes_that_migrate_at_once_take_turns(empty_db: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrations.upgrade, [empty_db.engine] * 4))
    assert migrations.pending(empty_db.engine) is None
    assert {"runs", "scores"} <= set(inspect(empty_db.engine).get_table_names())
