"""The log that a run keeps, scores of slices, and jobs that say themselves which weights they start from.

Runs that wait and were to start from a version take from it what they would have taken: modules declared alike.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("log", sa.String(length=64), nullable=True))
    with op.batch_alter_table("scores") as scores:
        scores.alter_column(
            "task", existing_type=sa.String(128), type_=sa.String(300), existing_nullable=False
        )
    _name_weights()


def _name_weights() -> None:
    runs = sa.table(
        "runs", sa.column("id", sa.String), sa.column("model", sa.String), sa.column("job", sa.JSON)
    )
    versions = sa.table(
        "versions",
        *(sa.column("model", sa.String), sa.column("number", sa.Integer), sa.column("sha256", sa.String)),
        sa.column("tasks", sa.JSON),
    )
    connection = op.get_bind()
    waiting = sa.select(runs).where(sa.text("kind = 'train' AND finished_at IS NULL"))
    for run in connection.execute(waiting).all():
        version = connection.execute(
            sa.select(versions).where(
                versions.c.model == run.model, versions.c.number == run.job.get("init_from")
            )
        ).first()
        if version is None:
            continue
        now, before = _modules(run.job["tasks"]), _modules(version.tasks)
        weights = {
            "model": version.model,
            "version": version.number,
            "sha256": version.sha256,
            "modules": {name: name for name in now if now[name] == before.get(name)},
        }
        job = run.job | {"weights": [weights]}
        connection.execute(sa.update(runs).where(runs.c.id == run.id).values(job=job))


def _modules(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: module for task in tasks for name, module in task["module_pool"].items()}


def downgrade() -> None:
    op.execute("DELETE FROM scores WHERE length(task) > 128")
    with op.batch_alter_table("scores") as scores:
        scores.alter_column(
            "task", existing_type=sa.String(300), type_=sa.String(128), existing_nullable=False
        )
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("log")
