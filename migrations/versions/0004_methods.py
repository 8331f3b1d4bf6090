"""Models that are made from an architecture and have tasks of their own; searches, and verdicts on sharing."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("architecture", sa.JSON(), nullable=True))
    _rebuild_model_tasks(
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("registered", sa.String(length=128), nullable=True),
        sa.Column("outline", sa.JSON(), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
        refers_by="registered",
        copied={"model": "model", "task": "task", "position": "position", "registered": "task"},
    )
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("parent", sa.String(length=40), nullable=True))
        runs.add_column(sa.Column("result", sa.JSON(), nullable=True))
        runs.add_column(sa.Column("verdict", sa.JSON(), nullable=True))
        runs.create_foreign_key("fk_runs_parent", "runs", ["parent"], ["id"], ondelete="CASCADE")
        runs.create_index("ix_runs_parent", ["parent"])


def downgrade() -> None:
    op.execute("DELETE FROM runs WHERE parent IS NOT NULL OR kind = 'search'")
    with op.batch_alter_table("runs") as runs:
        runs.drop_index("ix_runs_parent")
        runs.drop_constraint("fk_runs_parent", type_="foreignkey")
        for column in ("parent", "result", "verdict"):
            runs.drop_column(column)
    op.execute("DELETE FROM models WHERE architecture IS NOT NULL")
    op.execute("DELETE FROM model_tasks WHERE registered IS NULL")
    _rebuild_model_tasks(
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("task", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        refers_by="task",
        copied={"model": "model", "task": "task", "position": "position"},
    )
    op.drop_column("models", "architecture")


def _rebuild_model_tasks(*columns: sa.Column, refers_by: str, copied: dict[str, str]) -> None:
    """Make the table anew with its rows: what its foreign key is called differs by database."""
    op.rename_table("model_tasks", "old_model_tasks")
    op.drop_index("ix_model_tasks_task" if refers_by == "registered" else "ix_model_tasks_registered")
    op.create_table(
        "model_tasks",
        *columns,
        sa.ForeignKeyConstraint(["model"], ["models.name"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint([refers_by], ["tasks.name"]),
        sa.PrimaryKeyConstraint("model", "task"),
    )
    op.execute(
        f"INSERT INTO model_tasks ({', '.join(copied)}) SELECT {', '.join(copied.values())} FROM old_model_tasks"
    )
    op.drop_table("old_model_tasks")
    op.create_index(f"ix_model_tasks_{refers_by}", "model_tasks", [refers_by])
