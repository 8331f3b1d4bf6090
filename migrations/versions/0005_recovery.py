"""Runs that are taken up again: heartbeats, attempts, snapshots, priorities and who asked."""

import sqlalchemy as sa
from alembic import op

from app.db.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("client", sa.String(length=128), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("attempts", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("runs", sa.Column("snapshots", sa.JSON(), nullable=True))
    op.add_column("runs", sa.Column("beats", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("not_before", UtcDateTime(), nullable=True))
    op.add_column("runs", sa.Column("claimed_at", UtcDateTime(), nullable=True))
    _drop_column("lease_until")
    op.create_index("ix_runs_client_claimed", "runs", ["client", "claimed_at"])


def downgrade() -> None:
    op.drop_index("ix_runs_client_claimed", "runs")
    op.add_column("runs", sa.Column("lease_until", UtcDateTime(), nullable=True))
    # Whoever trains them now is not to be asked: their leases are over.
    op.execute("UPDATE runs SET lease_until = created_at WHERE status IN ('running', 'cancelling')")
    for column in (
        *("client", "priority", "crashes", "attempts", "snapshots", "beats", "not_before", "claimed_at"),
    ):
        _drop_column(column)


def _drop_column(name: str) -> None:
    # Alembic would make SQLite's table anew, with all that refers to it.
    op.execute(f"ALTER TABLE runs DROP COLUMN {name}")
