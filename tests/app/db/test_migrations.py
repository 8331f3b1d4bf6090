from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from app.db import migrations
from app.db.session import Database
from app.db.tables import Base, Run
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
