"""How much two trainings of one thread each slow one another, beside the time of one that runs alone.

Run it with ``python benchmarks/side_by_side.py``: it prints the ratio of each of the pair to the lone one, median and
maximum over rounds, for the workload W2 of ``benchmarks/workloads.py``. On a machine of one core it says nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS, GOAL, WORKLOAD = 5, 1.3, "W2"
ROOT = Path(__file__).parent.parent
RUN = ["-m", "benchmarks.contenders.taskloom", "recognised", WORKLOAD, "1", "0"]


def main() -> None:
    if (os.cpu_count() or 1) < 2:
        print("one core: two runs cannot be side by side")
        return
    alone: list[float] = []
    ratios: list[float] = []
    for _ in range(ROUNDS):
        (lone,) = _fit_seconds(1)
        alone.append(lone)
        ratios += [seconds / lone for seconds in _fit_seconds(2)]
    ratio = statistics.median(ratios)
    print(f"{WORKLOAD} alone with one thread: {statistics.median(alone):.2f} s")
    print(
        f"two side by side: {ratio:.2f} times that, at most {max(ratios):.2f},"
        f" goal ≤ {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}"
    )


def _fit_seconds(n: int) -> list[float]:
    """Start so many trainings at once and return how long each took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, *RUN], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(n)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return [json.loads(output.splitlines()[-1])["fit_s"] for output in outputs]


if __name__ == "__main__":
    main()
