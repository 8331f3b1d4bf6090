"""Settings, each read from the environment variable ``TASKLOOM_<NAME>``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.cores import usable_cores
from mtl_core.building.budget import Limits

_MIB = 2**20

UploadSource = Annotated[str, Field(pattern=r"^(file://(/[^/?#%]+)+/|s3://[a-z0-9.-]+/([^/?#%]+/)*)$")]


class Settings(BaseSettings):
    """What an operator may set; the defaults suit a laptop: SQLite and files under ``./data``."""

    model_config = SettingsConfigDict(env_prefix="TASKLOOM_", use_attribute_docstrings=True, extra="ignore")

    data_dir: Path = Path("data")
    """Folder for artifacts, and for the database where none is named."""
    database_url: str | None = None
    """SQLAlchemy URL, such as `postgresql+psycopg://user:password@host/taskloom`; default: SQLite in `data_dir`."""
    host: str = "127.0.0.1"
    """Address that the server listens on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port that the server listens on; 0 takes a free one."""
    allow_open: bool = False
    """Serve without API keys on an address that other machines reach."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or lines for people."""

    max_body_mib: Annotated[int, Field(ge=1, le=4096)] = 64
    """Greatest size of a request body, in MiB."""
    max_intake_mib: Annotated[int, Field(ge=1)] = 512
    """Memory that bodies may take together while they are on their way, in MiB; beyond that, clients are told to try
    again. Files are not counted: they go to disk."""
    max_upload_mib: Annotated[int, Field(ge=1)] = 65_536
    """Greatest size of an uploaded file, in MiB."""
    max_expansion: Annotated[int, Field(ge=1)] = 200
    """How many times its own size a file's rows may take once it is unpacked; 256 MiB are always allowed."""
    max_columns: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Columns that an uploaded file may have."""
    upload_sources: list[UploadSource] = []
    """Where files may lie that clients only name: a JSON list of `file:///folder/` and `s3://bucket/prefix/`."""
    reading_slots: Annotated[int, Field(ge=1, le=64)] = 2
    """Files that a server reads side by side, each in a process of its own."""
    reading_memory_mib: Annotated[int, Field(ge=512)] = 2048
    """Memory that reading one file may take, in MiB."""
    reading_seconds: Annotated[int, Field(ge=1)] = 1800
    """Time that reading one file may take."""
    max_parameters: Annotated[int, Field(ge=1)] = Limits.max_parameters
    """Numbers that all modules of a model may hold together."""
    max_activations: Annotated[int, Field(ge=1)] = Limits.max_activations
    """Numbers that one example may take on its way through a task."""
    forward_numbers: Annotated[int, Field(ge=1)] = 64_000_000
    """Numbers that one forward pass of a prediction may take; more rows are computed in turns."""
    model_cache_mib: Annotated[int, Field(ge=1)] = 1024
    """Weights that a server keeps loaded for predictions, in MiB; the least recently used go first."""

    server_processes: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes of one server that answer requests from one port; each keeps versions in memory for itself."""
    serving_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """CPU threads that each process of a server computes predictions with; 0: its share of half of the cores that the
    server may use, at least 1. Where
    several servers, or a server and workers, share a machine, their threads together should be no more than its
    cores."""
    refresh_seconds: Annotated[float, Field(gt=0, le=60)] = 0.25
    """How often a server looks whether the aliases and newest versions that it predicts by have moved."""

    request_log_days: Annotated[float, Field(ge=0, le=36_500)] = 30.0
    """How long logged requests are kept, of models that have their predictions logged."""

    dataset_memory_mib: Annotated[int, Field(ge=1)] = 512
    """Encoded examples that one run may hold in memory, in MiB; a run with more trains from mapped files."""
    sentence_encoders: dict[str, Path] = {}
    """Sentence encoders that text columns may name: JSON object of names and folders, each as `sentence-transformers`
    saves one; needs `pip install 'taskloom[text]'`."""

    worker_slots: Annotated[int, Field(ge=1, le=256)] = 1
    """Runs that one worker trains side by side."""
    training_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads that one training computes with; 0: one where `worker_slots` is above 1, else every core that the
    worker may use. Where several workers share a machine, 1 is best: threads beyond the cores slow each other many
    times."""
    worker_gpus: list[Annotated[int, Field(ge=0, le=1023)]] = []
    """GPUs that a worker gives to its runs, a JSON list of their numbers: each run has one to itself, and there are as
    many slots. Default: a run takes the first there is."""
    lease_seconds: Annotated[float, Field(gt=0, le=3600)] = 15.0
    """How long a worker may be silent before its runs are given to another."""
    snapshot_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """Time from one snapshot of a training to the next. Default: as often as it takes no more than 2 % of the time."""
    snapshot_days: Annotated[float, Field(ge=0)] = 7.0
    """How long the last snapshots of runs are kept that failed or were cancelled, to resume them."""
    result_days: Annotated[float, Field(ge=0, le=36_500)] = 30.0
    """How long the files are kept that runs end with: predictions of many rows, exports."""
    max_queued_runs: Annotated[int, Field(ge=1)] = 1000
    """Runs that one client may have waiting; trials of searches do not count."""
    poll_seconds: Annotated[float, Field(gt=0, le=60)] = 0.25
    """How often a worker looks for runs and for requests to cancel."""
    report_seconds: Annotated[float, Field(gt=0, le=60)] = 0.5
    """How often a training reports its progress."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a run may break down, or lose its worker, without getting further in between, before it fails."""
    cancel_grace_seconds: Annotated[float, Field(gt=0)] = 1.5
    """How long a training may take to stop by itself when it is cancelled."""
    drain_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How long a training may take to save where it stands when its worker is stopped."""

    @property
    def resolved_database_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'taskloom.db').resolve()}"

    @property
    def is_embedded(self) -> bool:
        """Whether the database is SQLite in the data folder, which this process may migrate by itself."""
        return self.database_url is None

    @property
    def artifacts_dir(self) -> Path:
        """Folder of the artifact store."""
        return self.data_dir / "artifacts"

    @property
    def max_body_bytes(self) -> int:
        """Greatest size of a request body."""
        return self.max_body_mib * _MIB

    @property
    def dataset_memory_bytes(self) -> int:
        """Encoded examples that one run may hold in memory."""
        return self.dataset_memory_mib * _MIB

    @property
    def resolved_serving_threads(self) -> int:
        """CPU threads that each process of a server computes predictions with, the default filled in."""
        return self.serving_threads or max(1, usable_cores() // 2 // self.server_processes)

    @property
    def max_intake_bytes(self) -> int:
        """Memory that bodies may take together while they are on their way."""
        return max(self.max_intake_mib, self.max_body_mib) * _MIB

    @property
    def max_upload_bytes(self) -> int:
        """Greatest size of an uploaded file."""
        return self.max_upload_mib * _MIB

    @property
    def reading_memory_bytes(self) -> int:
        """Memory that reading one file may take."""
        return self.reading_memory_mib * _MIB

    @property
    def model_cache_bytes(self) -> int:
        """Weights that a server keeps loaded."""
        return self.model_cache_mib * _MIB

    @property
    def limits(self) -> Limits:
        """What a spec may ask for."""
        return Limits(max_parameters=self.max_parameters, max_activations=self.max_activations)
