"""Has a file read by a process of its own, whose end is never the server's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from app.uploads.faults import UnreadableError
from app.uploads.options import Limits, Options

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
_ENVIRONMENT = {
    # The memory limit counts what an allocator reserves.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUTF8": "1",
}


@dataclass(frozen=True)
class Reading:
    """What was found in a file.

    Attributes:
        read_as: Format, and how text was read.
        rows: How many.
        columns: A description of each.
        preview: The first rows.
        warnings: What the client should know.
    """

    read_as: dict[str, Any]
    rows: int
    columns: list[dict[str, Any]]
    preview: list[dict[str, Any]]
    warnings: list[str]


def read_apart(path: Path, table: Path, folder: Path, options: Options, limits: Limits) -> Reading:
    """Read a file into a table within limits.

    Args:
        path: The file.
        table: The new table.
        folder: Where files on the way may lie.
        options: How to read it.
        limits: What that may take.

    Raises:
        UnreadableError: If it cannot be read.
    """
    told = {
        "path": str(path),
        "table": str(table),
        "folder": str(folder),
        "options": asdict(options),
        "limits": asdict(limits),
    }
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    process = subprocess.run(
        [sys.executable, "-P", "-m", "app.uploads.reading"],
        input=orjson.dumps(told),
        env=environment | _ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    if process.returncode == 0:
        found = orjson.loads(process.stdout)
        if fault := found.get("fault"):
            raise UnreadableError(**fault)
        return Reading(**found)
    if process.returncode == -signal.SIGALRM:
        raise UnreadableError(f"reading it takes more than {limits.seconds} seconds")
    if process.returncode < 0:
        raise UnreadableError(
            "its content makes the reader break down: the file is damaged, or takes too much memory"
        )
    # An exception that nobody expected is our fault; its trace goes to the log.
    raise RuntimeError(f"the reader failed: {process.stderr.decode(errors='replace')[-4000:]}")
