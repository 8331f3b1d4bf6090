"""Servers and workers as processes of their own, started by the same commands as in production."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")

TASKLOOM = Path(sys.executable).with_name("taskloom")
FAST = {
    "TASKLOOM_POLL_SECONDS": "0.1",
    "TASKLOOM_REPORT_SECONDS": "0.1",
    "TASKLOOM_LEASE_SECONDS": "5",
    "TASKLOOM_TRAINING_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def until(condition: Callable[[], T], what: str, seconds: float = 150) -> T:
    """Return what ``condition`` answers as soon as that is true; fail where it never is."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(pause)
        # Who asks all the time slows down what it waits for.
        pause = min(1.2 * pause, 0.1)
    return answer


def environment(data_dir: Path, database_url: str | None = None, **settings: str) -> dict[str, str]:
    """Return the environment of a Taskloom process: nothing of the caller's own settings is left."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TASKLOOM_")}
    env |= FAST | {"TASKLOOM_DATA_DIR": str(data_dir)} | settings
    return env | ({"TASKLOOM_DATABASE_URL": database_url} if database_url else {})


def run_command(
    *arguments: str, env: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a ``taskloom`` command to its end."""
    return subprocess.run(
        [TASKLOOM, *arguments], env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


class TaskloomProcess:
    """A ``taskloom`` command that runs until it is stopped, its log in a file."""

    def __init__(self, *arguments: str, env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [TASKLOOM, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=log.parent,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self, event: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Return the log's JSON lines, narrowed to an event and to fields of those values."""
        found: list[dict[str, Any]] = []
        # The last line may be half written.
        for text in self.log.read_text(errors="replace").split("\n")[:-1]:
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                if (event is None or line.get("event") == event) and fields.items() <= line.items():
                    found.append(line)
        return found

    def logged(self, event: str, seconds: float = 150, **fields: object) -> dict[str, Any]:
        """Wait for a log line and return it."""

        def first() -> dict[str, Any] | None:
            found = self.lines(event, **fields)
            if not found and self.process.poll() is not None:
                raise AssertionError(f"status {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            return found[0] if found else None

        line = until(first, f"'{event}' {fields} in {self.log}", seconds)
        assert line is not None
        return line

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def ask_to_stop(self) -> None:
        """Ask the process to end, as an operator would."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise


class ServerProcess(TaskloomProcess):
    """``taskloom serve`` on a free port."""

    def __init__(self, *arguments: str, env: dict[str, str], log: Path) -> None:
        super().__init__("serve", "--port", "0", *arguments, env=env, log=log)

    def url(self) -> str:
        """Wait until the server answers, and return its address."""
        url: str = self.logged("serving")["url"]

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                return http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        with httpx.Client(base_url=url, timeout=10, verify=False) as http:
            until(is_ready, f"{url} to be ready")
        return url


class WorkerProcess(TaskloomProcess):
    """``taskloom worker``."""

    def __init__(self, *, env: dict[str, str], log: Path) -> None:
        super().__init__("worker", env=env, log=log)

    def claims(self, run: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the log's lines of claimed runs."""
        return (line for line in self.lines("run claimed") if run in (None, line["run_id"]))


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
