from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text

from app.db import migrations
from app.db.session import Database
from app.db.tables import Base, Run, RunEvent, Version
from app.runs import lease
from app.runs.lease import Watch
from app.runs.routes import run_out


def test_the_migrations_make_exactly_the_tables(db: Database) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_runs_of_before_there_were_uploads_stay_readable(empty_db: Database) -> None:
    config = migrations.alembic_config()
    insert = "INSERT INTO {} VALUES ({})"
    job = {"tasks": [], "fields": {}, "init_from": None}
    job |= {"splits": [{"dataset": "d", "split": "train", "sha256": "0" * 64, "tasks": ["t"]}]}
    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        now = "'2026-01-02 03:04:05'"
        connection.execute(text(insert.format("datasets (name, created_at)", f"'d', {now}")))
        columns = "splits (dataset, name, rows, fields, labels, sha256, bytes, created_at)"
        connection.execute(text(insert.format(columns, f"'d', 'train', 7, '{{}}', '{{}}', '0', 1, {now}")))
        connection.execute(text(insert.format("models (name, created_at)", f"'m', {now}")))
        columns = "runs (id, model, kind, status, request, job, attempt, events, fence, created_at)"
        values = f"'run_1', 'm', 'train', 'queued', :request, :job, 0, 0, 0, {now}"
        request = json.dumps({"datasets": ["d"], "trainer": {}})
        connection.execute(text(insert.format(columns, values)), {"request": request, "job": json.dumps(job)})
    migrations.upgrade(empty_db.engine)
    with empty_db.read() as session:
        run = run_out(session.get_one(Run, "run_1"))
    assert run.status == "cancelled"
    assert [(data.dataset, data.version, data.rows) for data in run.data] == [("d", 1, 7)]

    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    migrations.upgrade(empty_db.engine)
    assert migrations.pending(empty_db.engine) is None


def test_a_run_that_waits_says_afterwards_which_weights_it_starts_from(empty_db: Database) -> None:
    config = migrations.alembic_config()
    now = "'2026-01-02 03:04:05'"

    def task(name: str, **pool: Any) -> dict[str, Any]:
        return {"name": name, "module_pool": pool}

    before = [task("t", trunk={"type": "ReLU"}, t_head={"type": "Tanh"})]
    after = [task("u", trunk={"type": "ReLU"}, u_head={"type": "Tanh"}), task("t", t_head={"type": "SiLU"})]
    runs = {"run_1": (before, None, f"{now}"), "run_2": (after, 1, "NULL"), "run_3": (after, None, "NULL")}
    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(text(f"INSERT INTO models (name, created_at) VALUES ('m', {now})"))
        for name, (tasks, init_from, finished) in runs.items():
            job = {"tasks": tasks, "splits": [], "fields": {}, "preprocessing": "", "init_from": init_from}
            columns = "id, model, kind, status, request, job, attempt, events, fence, created_at, finished_at"
            values = f"'{name}', 'm', 'train', 'queued', '{{}}', :job, 0, 0, 0, {now}, {finished}"
            connection.execute(
                text(f"INSERT INTO runs ({columns}) VALUES ({values})"), {"job": json.dumps(job)}
            )
        columns = "model, number, run, tasks, fields, parameters, sha256, bytes, created_at"
        values = f"'m', 1, 'run_1', :tasks, '{{}}', 0, 'abc', 0, {now}"
        connection.execute(
            text(f"INSERT INTO versions ({columns}) VALUES ({values})"), {"tasks": json.dumps(before)}
        )
    migrations.upgrade(empty_db.engine)
    with empty_db.read() as session:
        jobs = {name: session.get_one(Run, name).job for name in runs}
    weights = {"model": "m", "version": 1, "sha256": "abc", "modules": {"trunk": "trunk"}}
    assert [jobs[name].get("weights") for name in runs] == [None, [weights], None]


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
def test_no_row_is_lost_on_the_way_from_any_revision(empty_db: Database, revision: str) -> None:
    config = migrations.alembic_config()
    now = "'2026-01-02 03:04:05'"
    of_task = ("model, task, position", "'m', 't', 0")
    if revision == "0004":
        of_task = ("model, task, registered, position", "'m', 't', 't', 0")
    rows = {
        "tasks": ("name, spec, report, created_at", f"'t', '{{}}', '{{}}', {now}"),
        "models": ("name, created_at", f"'m', {now}"),
        "model_tasks": of_task,
        "runs": (
            "id, model, kind, status, request, job, attempt, events, fence, created_at, finished_at",
            f"'run_1', 'm', 'train', 'succeeded', '{{}}', :job, 1, 1, 1, {now}, {now}",
        ),
        "run_events": ("run, seq, kind, data, created_at", f"'run_1', 1, 'log', '{{}}', {now}"),
        "versions": (
            "model, number, run, tasks, fields, parameters, sha256, bytes, created_at",
            f"'m', 1, 'run_1', '[]', '{{}}', 0, 'abc', 0, {now}",
        ),
        "aliases": ("model, name, version", "'m', 'best', 1"),
        "scores": (
            "model, version, run, task, dataset, split, metric, value, n, created_at",
            f"'m', 1, 'run_1', 't', 'd', 'test', 'accuracy', 0.5, 8, {now}",
        ),
        "idempotent_answers": (
            "key, request, status, headers, body, created_at",
            f"'k', 'r', 202, '{{}}', '', {now}",
        ),
    }
    job = {"tasks": [], "splits": [], "fields": {}, "preprocessing": "p", "init_from": None}
    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for table, (columns, values) in rows.items():
            statement = text(f"INSERT INTO {table} ({columns}) VALUES ({values})")
            connection.execute(statement, {"job": json.dumps(job)} if ":job" in values else {})
    migrations.upgrade(empty_db.engine)
    with empty_db.engine.connect() as connection:
        counts = {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in rows
        }
    assert counts == dict.fromkeys(rows, 1)


def test_a_database_that_is_behind_says_what_to_do(empty_db: Database) -> None:
    behind = migrations.pending(empty_db.engine)
    assert behind is not None
    assert "taskloom db upgrade" in behind
    migrations.upgrade(empty_db.engine)
    assert migrations.pending(empty_db.engine) is None


def test_processes_that_migrate_at_once_take_turns(empty_db: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: migrations.upgrade(empty_db.engine), range(4)))
    assert migrations.pending(empty_db.engine) is None
    assert {"runs", "scores"} <= set(inspect(empty_db.engine).get_table_names())


def test_models_keep_their_registered_tasks_when_models_may_have_tasks_of_their_own(
    empty_db: Database,
) -> None:
    config = migrations.alembic_config()
    now = "'2026-01-02 03:04:05'"
    rows = text("SELECT task, position FROM model_tasks WHERE model = 'm' ORDER BY position")
    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.execute(text(f"INSERT INTO models (name, created_at) VALUES ('m', {now})"))
        for position, task in enumerate(["b", "a"]):
            columns = "tasks (name, spec, report, created_at)"
            connection.execute(text(f"INSERT INTO {columns} VALUES ('{task}', '{{}}', '{{}}', {now})"))
            connection.execute(text(f"INSERT INTO model_tasks VALUES ('m', '{task}', {position})"))
    migrations.upgrade(empty_db.engine)
    with empty_db.engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(rows)] == [("b", 0), ("a", 1)]
        referred = connection.execute(text("SELECT registered FROM model_tasks ORDER BY position")).scalars()
        assert list(referred) == ["b", "a"]

    with empty_db.engine.begin() as connection:
        own = "model_tasks (model, task, position, spec, report)"
        connection.execute(text(f"INSERT INTO {own} VALUES ('m', 'own', 2, '{{}}', '{{}}')"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        assert [tuple(row) for row in connection.execute(rows)] == [("b", 0), ("a", 1)]


class Clock:
    """A clock that the test moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def check_runs(db: Database, statuses: dict[str, str]) -> None:
    with db.read() as session:
        runs = {run.id: run_out(run) for run in session.scalars(select(Run))}
        events = session.execute(select(RunEvent.run, RunEvent.seq)).all()
        assert session.scalars(select(Version.run)).all() == ["run_1"]
    assert {name: run.status for name, run in runs.items()} == statuses
    assert all(run.trainer == {"n_epochs": 3} for name, run in runs.items() if name != "run_4")
    assert {(name, 1) for name in statuses} <= {tuple(row) for row in events}


def test_runs_of_before_there_were_heartbeats_wait_go_on_and_stay(empty_db: Database) -> None:
    config = migrations.alembic_config()
    now = "'2026-01-02 03:04:05'"
    statuses = {"run_1": "succeeded", "run_2": "running", "run_3": "queued", "run_4": "running"}
    job = json.dumps({"tasks": [], "splits": [], "fields": {}, "preprocessing": "p", "init_from": None})
    asked = {"datasets": ["d"], "trainer": {"n_epochs": 3}}
    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        connection.execute(text(f"INSERT INTO models (name, created_at) VALUES ('m', {now})"))
        for name, status in statuses.items():
            kind = "search" if name == "run_4" else "train"
            held = f"'gone', {now}" if status == "running" else "NULL, NULL"
            columns = (
                "id, model, kind, status, request, job, attempt, events, fence, created_at, parent, worker,"
                " lease_until"
            )
            values = f"'{name}', 'm', '{kind}', '{status}', :request, :job, 1, 1, 1, {now}, NULL, {held}"
            connection.execute(
                text(f"INSERT INTO runs ({columns}) VALUES ({values})"),
                {"request": json.dumps({"train": asked} if kind == "search" else asked), "job": job},
            )
            event = "run_events (run, seq, kind, data, created_at)"
            connection.execute(
                text(f"INSERT INTO {event} VALUES ('{name}', 1, 'status', :data, {now})"),
                {"data": json.dumps({"status": status})},
            )
        columns = "model, number, run, tasks, fields, parameters, sha256, bytes, created_at"
        connection.execute(
            text(
                f"INSERT INTO versions ({columns}) VALUES ('m', 1, 'run_1', '[]', '{{}}', 0, 'abc', 0, {now})"
            )
        )
    migrations.upgrade(empty_db.engine)
    check_runs(empty_db, statuses)
    clock = Clock()
    watch = Watch(clock)
    with empty_db.write() as session:
        claimed = lease.claim(session, "new", watch, 10.0, 3)
        assert claimed is not None
        assert claimed.run == "run_3"
        # The worker that trained when the service was stopped is gone: after a lease, its run is another's.
        assert lease.claim(session, "new", watch, 10.0, 3) is None
    for _ in range(11):
        clock.now += 1.0
        with empty_db.write() as session:
            lease.renew(session, claimed)
            found = lease.claim(session, "new", watch, 10.0, 3)
            if found is not None:
                break
    assert found is not None
    assert (found.run, found.attempt) == ("run_2", 2)

    with empty_db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0004")
    migrations.upgrade(empty_db.engine)
    check_runs(empty_db, statuses | {"run_3": "running"})
