"""Models that say how their predictions are computed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("serving", sa.JSON(), nullable=True))


def downgrade() -> None:
    # Alembic would make SQLite's table anew, with all that refers to it.
    op.execute("ALTER TABLE models DROP COLUMN serving")
