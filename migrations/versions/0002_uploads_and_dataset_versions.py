"""Uploads, versions of datasets, and the preprocessing that a version carries.

Splits were one file of encoded tensors each, and are now rows of tables: datasets have to be registered again, and runs
that waited for the old ones end. Models, their versions and their scores stay.
"""

import sqlalchemy as sa
from alembic import op

from app.db.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("options", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("options_key", sa.String(length=64), nullable=False),
        sa.Column("read_as", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("table", sa.String(length=64), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("preview", sa.JSON(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256", "options_key"),
    )
    op.create_index("ix_uploads_sha256", "uploads", ["sha256"])

    _pin_jobs_anew()
    op.drop_table("splits")
    op.execute("DELETE FROM datasets")
    op.create_table(
        "dataset_versions",
        sa.Column("dataset", sa.String(length=128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("splitting", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("dataset", "number"),
    )
    op.create_table(
        "splits",
        sa.Column("dataset", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("weights", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("columns", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("overlap", sa.JSON(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset", "version"],
            ["dataset_versions.dataset", "dataset_versions.number"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("dataset", "version", "name"),
    )

    with op.batch_alter_table("versions") as versions:
        versions.add_column(sa.Column("preprocessing", sa.String(length=64), nullable=True))
    op.execute(
        "UPDATE runs SET status = 'cancelled', finished_at = created_at, lease_until = NULL, worker = NULL"
        " WHERE finished_at IS NULL"
    )


def _pin_jobs_anew() -> None:
    """Have jobs name the split that they used in the form of today."""
    splits = sa.table("splits", *map(sa.column, ("dataset", "name", "rows")))
    runs = sa.table("runs", sa.column("id", sa.String), sa.column("job", sa.JSON))
    connection = op.get_bind()
    rows = {(row.dataset, row.name): row.rows for row in connection.execute(sa.select(splits))}
    for run in connection.execute(sa.select(runs)).all():
        pinned = [
            {"version": 1, "rows": rows.get((ref["dataset"], ref["split"]), 0), "labels": {}}
            | ref
            | {"fields": [], "weights": None, "parts": []}
            for ref in run.job["splits"]
        ]
        job = run.job | {"splits": pinned, "preprocessing": ""}
        connection.execute(sa.update(runs).where(runs.c.id == run.id).values(job=job))


def downgrade() -> None:
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("preprocessing")
    op.drop_table("splits")
    op.drop_table("dataset_versions")
    op.execute("DELETE FROM datasets")
    op.create_table(
        "splits",
        sa.Column("dataset", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.name"]),
        sa.PrimaryKeyConstraint("dataset", "name"),
    )
    op.create_index("ix_splits_sha256", "splits", ["sha256"])
    op.drop_table("uploads")
