"""The whole schema at a glance; ``migrations/`` holds its history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Json = dict[str, Any]
JsonList = list[Any]
Name = String(128)
LabelSet = String(300)  # a task's name, or that of one of its slices: task_slice:slice_ind
Id = String(40)
Sha256 = String(64)
# SQLite numbers rows by itself only where the type is INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC, aware of it on every database (SQLite itself keeps no time zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Answer an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return this process's time in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Every table."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        Json: JSON(none_as_null=True),
        JsonList: JSON,
        datetime: UtcDateTime,
    }


class Task(Base):
    """A registered task; immutable."""

    __tablename__ = "tasks"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    spec: Mapped[Json]
    report: Mapped[Json]  # sizes and shapes, as the dry run found them
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Upload(Base):
    """A file that a client sent or named, and the table that was read from it; immutable."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    filename: Mapped[str | None] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(Sha256, index=True)  # of the file as it came
    bytes: Mapped[int] = mapped_column(BigInteger)
    options: Mapped[Json]  # how the client said to read it
    options_key: Mapped[str] = mapped_column(
        Sha256
    )  # of the options: with the file's checksum, what is one upload
    read_as: Mapped[Json]  # how it was read: format, and the dialect of a CSV file
    table: Mapped[str] = mapped_column(Sha256)  # artifact of its rows
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[JsonList]  # name, dtype, shape, nulls, distinct values …
    preview: Mapped[JsonList]  # the first rows
    warnings: Mapped[JsonList]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    __table_args__ = (UniqueConstraint("sha256", "options_key"),)


class Dataset(Base):
    """A name for data; what it stands for are its versions."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    versions: Mapped[list[DatasetVersion]] = relationship(
        order_by="DatasetVersion.number", cascade="all, delete-orphan", passive_deletes=True
    )


class DatasetVersion(Base):
    """A dataset as it was from one change to the next; immutable."""

    __tablename__ = "dataset_versions"

    dataset: Mapped[str] = mapped_column(ForeignKey("datasets.name", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int | None]
    splitting: Mapped[Json | None]  # the rule that dealt rows to splits, for rows appended later
    sha256: Mapped[str] = mapped_column(Sha256)  # of its splits' checksums and of what it says of them
    warnings: Mapped[JsonList]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    splits: Mapped[list[Split]] = relationship(
        order_by="Split.position", cascade="all, delete-orphan", passive_deletes=True
    )


class Split(Base):
    """One split of a dataset's version: which rows of which tables, and what their columns mean; immutable."""

    __tablename__ = "splits"
    __table_args__ = (
        ForeignKeyConstraint(
            ["dataset", "version"],
            ["dataset_versions.dataset", "dataset_versions.number"],
            ondelete="CASCADE",
        ),
    )

    dataset: Mapped[str] = mapped_column(Name, primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    position: Mapped[int]
    rows: Mapped[int] = mapped_column(BigInteger)
    fields: Mapped[Json]  # field → its columns
    labels: Mapped[
        Json
    ]  # task → its column, dtype, shape, class names, how many are labelled, counts by class
    weights: Mapped[Json | None]  # column of the examples' weights
    columns: Mapped[Json]  # column → summary statistics
    overlap: Mapped[JsonList]  # pairs of tasks, and how many rows carry both their labels
    parts: Mapped[JsonList]  # table, the rows of it that belong to the split, their statistics
    sha256: Mapped[str] = mapped_column(Sha256)  # of the parts
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Model(Base):
    """A set of tasks that share modules by name."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    architecture: Mapped[
        Json | None
    ]  # the short form that its own tasks were made from, as the client gave it
    serving: Mapped[Json | None]  # how its predictions are computed; null: as by default
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    tasks: Mapped[list[ModelTask]] = relationship(
        order_by="ModelTask.position", cascade="all, delete-orphan", passive_deletes=True
    )
    aliases: Mapped[list[Alias]] = relationship(
        order_by="Alias.name", cascade="all, delete-orphan", passive_deletes=True
    )


class ModelTask(Base):
    """A task's place in a model: a registered one, or the model's own, which its architecture makes."""

    __tablename__ = "model_tasks"

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    task: Mapped[str] = mapped_column(Name, primary_key=True)
    position: Mapped[int]
    registered: Mapped[str | None] = mapped_column(ForeignKey("tasks.name"), index=True)  # null: its own
    outline: Mapped[Json | None]  # of its own: kind, labels and head, as the client gave them
    spec: Mapped[Json | None]  # of its own
    report: Mapped[Json | None]  # of its own
    task_row: Mapped[Task | None] = relationship()


class Run(Base):
    """Work on a model that takes a while, a training first of all, and who has it while it runs."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_status_id", "status", "id"),
        Index("ix_runs_model_id", "model", "id"),
        Index("ix_runs_client_claimed", "client", "claimed_at"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    parent: Mapped[str | None] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), index=True
    )  # a search
    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    request: Mapped[Json]  # as the client asked
    job: Mapped[Json]  # what it comes to: task specs, splits by checksum, where weights come from
    progress: Mapped[Json | None]
    error: Mapped[Json | None]
    model_version: Mapped[int | None]
    result: Mapped[Json | None]  # what it ended with that is no version: a trial's weights and scores, a file
    verdict: Mapped[Json | None]  # what sharing gained or lost for each task
    log: Mapped[str | None] = mapped_column(Sha256)  # artifact: the files that its log writer wrote
    client: Mapped[str] = mapped_column(Name, default="", server_default="")  # who asked for it
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    attempt: Mapped[int] = mapped_column(default=0)  # how often it was started
    attempts: Mapped[JsonList] = mapped_column(default=list, server_default="[]")  # what became of each
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")  # in a row, without getting further
    snapshots: Mapped[Json | None]  # artifacts of its training as it last stood
    not_before: Mapped[datetime | None]  # when it may be started again after a crash
    events: Mapped[int] = mapped_column(default=0)  # how many run_events there are
    fence: Mapped[int] = mapped_column(default=0)  # grows with each claim; writes of older claims find no row
    beats: Mapped[int] = mapped_column(default=0, server_default="0")  # its worker's heartbeats
    worker: Mapped[str | None] = mapped_column(String(128))
    claimed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunEvent(Base):
    """What happened in a run, numbered without a gap: its status, progress, metrics and log."""

    __tablename__ = "run_events"

    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Version(Base):
    """A trained model: self-contained, its weights the artifact of that checksum; immutable."""

    __tablename__ = "versions"

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), unique=True)
    tasks: Mapped[JsonList]  # task specs
    fields: Mapped[Json]  # field → dtype, shape of one example
    preprocessing: Mapped[str | None] = mapped_column(
        Sha256
    )  # artifact: how raw columns become fields, and class names
    parameters: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Sha256, index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Alias(Base):
    """A name for a version that can move."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"], ondelete="CASCADE"),
    )

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    version: Mapped[int]


class Score(Base):
    """One metric of one task of a version on one split; the newest of equal keys counts."""

    __tablename__ = "scores"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"], ondelete="CASCADE"),
        Index("ix_scores_version", "model", "version", "task", "dataset", "split", "metric"),
        Index("ix_scores_task", "task", "dataset"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(Name)
    version: Mapped[int]
    run: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    task: Mapped[str] = mapped_column(LabelSet)
    dataset: Mapped[str] = mapped_column(Name)
    split: Mapped[str] = mapped_column(Name)
    metric: Mapped[str] = mapped_column(Name)
    value: Mapped[float | None]
    reason: Mapped[str | None]
    n: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LoggedRequest(Base):
    """A prediction with its inputs and answers, of a model that has them logged; removed when it is old."""

    __tablename__ = "request_log"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"], ondelete="CASCADE"),
        Index("ix_request_log_model_id", "model", "id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)  # begins with the time
    model: Mapped[str] = mapped_column(Name)
    version: Mapped[int]
    tasks: Mapped[JsonList]
    request_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]  # by the server's clock
    seconds: Mapped[float]
    rows: Mapped[int]
    logged_rows: Mapped[int]  # how many of them, the first, are in inputs and answers
    inputs: Mapped[Json]  # raw records or columns as they came, else fields
    answers: Mapped[Json]  # by task


class IdempotentAnswer(Base):
    """What a ``POST`` with an ``Idempotency-Key`` answered, to answer it again."""

    __tablename__ = "idempotent_answers"

    key: Mapped[str] = mapped_column(Sha256, primary_key=True)  # of path and key
    request: Mapped[str] = mapped_column(Sha256)  # of the body
    status: Mapped[int]
    headers: Mapped[Json]
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
