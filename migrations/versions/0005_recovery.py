"""Runs that are taken up again: heartbeats, attempts, snapshots, priorities and who asked."""

import sqlalchemy as sa
from alembic import op

from app.db.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("client", sa.String(length=128), nullable=False, server_default=""))
        runs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        runs.add_column(sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
        runs.add_column(sa.Column("attempts", sa.JSON(), nullable=False, server_default="[]"))
        runs.add_column(sa.Column("snapshots", sa.JSON(), nullable=True))
        runs.add_column(sa.Column("beats", sa.Integer(), nullable=False, server_default="0"))
        runs.add_column(sa.Column("not_before", UtcDateTime(), nullable=True))
        runs.add_column(sa.Column("claimed_at", UtcDateTime(), nullable=True))
        runs.drop_column("lease_until")
        runs.create_index("ix_runs_client_claimed", ["client", "claimed_at"])


def downgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.drop_index("ix_runs_client_claimed")
        runs.add_column(sa.Column("lease_until", UtcDateTime(), nullable=True))
        for column in (
            "client",
            "priority",
            "crashes",
            "attempts",
            "snapshots",
            "beats",
            "not_before",
            "claimed_at",
        ):
            runs.drop_column(column)
    # Whoever trains them now is not to be asked: their leases are over.
    op.execute("UPDATE runs SET lease_until = created_at WHERE status IN ('running', 'cancelling')")
