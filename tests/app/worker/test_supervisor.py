"""The supervisor, as far as it goes without a run: what it does with runs is seen in ``tests/service``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from app.settings import Settings
from app.worker.supervisor import Supervisor

_SEND = """
import os, sys, time
for i in range(4000):
    os.kill(int(sys.argv[1]), int(sys.argv[2]))
    until = time.perf_counter() + i % 40 * 1e-6
    while time.perf_counter() < until:
        pass
"""


def test_a_signal_may_arrive_while_another_is_handled(tmp_path: Path) -> None:
    supervisor = Supervisor(Settings(data_dir=tmp_path))
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: supervisor.stop())
    try:
        # Where it takes a lock, this never ends.
        subprocess.run([sys.executable, "-c", _SEND, str(os.getpid()), str(int(signal.SIGUSR1))], check=True)
    finally:
        signal.signal(signal.SIGUSR1, before)
