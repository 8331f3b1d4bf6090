"""How a contender is measured: one training and one scoring in a process of its own.

Before it is measured, a contender trains and scores two batches with a model of their own: what torch imports, starts
and allocates once in a process is left out, of times and of memory alike (``benchmarks/start_up.py`` measures it).
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from benchmarks import workloads
from benchmarks.workloads import Weights, Workload

_Result = TypeVar("_Result")


class Contender(Protocol):
    """Something that trains and scores a workload, made with all data and the model at hand."""

    def fit(self) -> None:
        """Train from the initial weights."""
        ...

    def score(self) -> dict[str, float]:
        """Return the accuracy on each split by ``task/split``."""
        ...

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        ...


@dataclass(frozen=True)
class Arguments:
    """A contender's command line: what is its own, then workload, number of threads, and seed of the batches."""

    own: list[str]
    workload: str
    n_threads: int
    seed: int

    @classmethod
    def read(cls) -> Arguments:
        """Read this process's."""
        *own, workload, n_threads, seed = sys.argv[1:]
        return cls(own, workload, int(n_threads), int(seed))


def report(build: Callable[[Workload], Contender], arguments: Arguments) -> None:
    """Measure a contender and print what was found as one line of JSON.

    Times are in seconds; memory is in 10^6 bytes, by which the process's peak resident memory rose over what was
    resident before, with data, model and loaders there.
    """
    torch.set_num_threads(arguments.n_threads)
    workload = workloads.load(arguments.workload, arguments.seed)
    warming = build(workload.first_rows())
    warming.fit()
    warming.score()
    del warming
    contender = build(workload)
    fit_s, fit_mb, _ = _measured(contender.fit)
    score_s, score_mb, accuracies = _measured(contender.score)
    print(
        json.dumps(
            {
                "fit_s": fit_s,
                "score_s": score_s,
                "fit_mb": fit_mb,
                "score_mb": score_mb,
                "loss": workloads.mean_loss(workload, contender.weights()),
                "accuracies": accuracies,
            }
        )
    )


def _measured(work: Callable[[], _Result]) -> tuple[float, float, _Result]:
    gc.collect()
    # What earlier work freed goes back to the system: it would hide what this one takes.
    ctypes.CDLL(None).malloc_trim(0)
    # Documented in proc(5): sets the peak, VmHWM, to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return seconds, (_status("VmHWM") - before) / 1e6, result


def _status(key: str) -> int:
    """Return an entry of this process's account of memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
