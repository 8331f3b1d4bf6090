"""How fast Taskloom trains and scores, beside Snorkel, a plain PyTorch loop and the limit loops.

Run it with ``python benchmarks/training.py``: each contender trains and scores each workload of
``benchmarks/workloads.py`` in a process of its own, all of them in turns, and a table a workload and number of threads
gives medians and maxima, speeds with Snorkel's as 1, the share of the matching limit loop's speed, memory growth, and
the loss and accuracy that came out. A round has its own order of batches, the same seed for all; a row whose losses or
accuracies are all outside what the rounds of the limit loop span says so. ``docs/benchmarks.md`` says more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OURS = {"taskloom recognised": "limit hand-written", "taskloom any-graph": "limit autograd"}
REFERENCE = "limit autograd"
CONTENDERS = {
    "snorkel": ["benchmarks.contenders.snorkel"],
    "plain": ["benchmarks.contenders.plain"],
    "limit autograd": ["benchmarks.limits", "autograd"],
    "limit hand-written": ["benchmarks.limits", "hand-written"],
    "taskloom any-graph": ["benchmarks.contenders.taskloom", "any-graph"],
    "taskloom recognised": ["benchmarks.contenders.taskloom", "recognised"],
}
SPEED_GOALS = {
    ("W1", "fit"): {"taskloom any-graph": 4.5, "taskloom recognised": 11},
    ("W1", "score"): {"taskloom any-graph": 40, "taskloom recognised": 40},
    ("W2", "fit"): {"taskloom any-graph": 4.2, "taskloom recognised": 5},
    ("W2", "score"): {"taskloom any-graph": 9, "taskloom recognised": 9},
    ("W3", "fit"): {"taskloom any-graph": 12, "taskloom recognised": 19},
    ("W3", "score"): {"taskloom any-graph": 30, "taskloom recognised": 30},
}
OF_LIMIT_GOAL = 0.85
MEMORY_GOALS = {("W3", "fit"): 40, ("W3", "score"): 20}
LOSS_NOISE, ACCURACY_NOISE = 0.05, 0.01


@dataclass
class Runs:
    """What the rounds of one contender found, and how one failed."""

    found: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def of(self, key: str) -> list[float]:
        """Return a figure of each round."""
        return [found[key] for found in self.found]

    def median(self, key: str) -> float:
        """Return the median of a figure over the rounds."""
        return statistics.median(self.of(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender; default 5")
    parser.add_argument("--workloads", default="W1,W2,W3", help="default W1,W2,W3")
    parser.add_argument("--threads", default="1,2", help="numbers of threads; default 1,2")
    parser.add_argument(
        "--against",
        choices=["all", "limits"],
        default="all",
        help="limits leaves out Snorkel and the plain loop; default all",
    )
    parser.add_argument(
        "--snorkel-python",
        default=str(ROOT / ".venv-bench/bin/python"),
        help="the Python that has Snorkel; default that of .venv-bench, which make bench makes",
    )
    arguments = parser.parse_args()
    names = [name for name in CONTENDERS if arguments.against == "all" or name not in {"snorkel", "plain"}]
    for workload in arguments.workloads.split(","):
        for n_threads in arguments.threads.split(","):
            runs = {name: Runs() for name in names}
            for round_ in range(arguments.rounds):
                for name in names:
                    python = arguments.snorkel_python if name == "snorkel" else sys.executable
                    _run(runs[name], python, [*CONTENDERS[name], workload, n_threads, str(round_)])
            _print(workload, n_threads, arguments.rounds, runs)


def _run(runs: Runs, python: str, arguments: list[str]) -> None:
    """Run one contender once, unless it has failed before."""
    if runs.error:
        return
    n_threads = arguments[-2]
    try:
        done = subprocess.run(
            [python, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": n_threads},
            capture_output=True,
            text=True,
            check=False,
        )
        runs.found.append(json.loads(done.stdout.splitlines()[-1]))
    except OSError as error:
        runs.error = str(error)
    except (IndexError, json.JSONDecodeError):
        runs.error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _print(workload: str, n_threads: str, n_rounds: int, runs: dict[str, Runs]) -> None:
    print(
        f"\n{workload}, threads: {n_threads}, rounds: {n_rounds}, one process each; times in ms, memory in MB"
    )
    for work in ("fit", "score"):
        print(
            f"\n{work:<22}{'median':>10}{'max':>10}{'speed':>8}{'goal':>14}{'of limit':>10}{'goal':>15}"
            f"{'memory':>9}{'goal':>14}"
        )
        for name, of_one in runs.items():
            if of_one.error:
                print(f"{name:<22}failed: {of_one.error}")
            else:
                print(_row(workload, work, name, runs))
    print(f"\n{'':<22}{'loss':>10}{'accuracy':>10}")
    for name, of_one in runs.items():
        if not of_one.error:
            loss, accuracy = of_one.median("loss"), statistics.median(_accuracies(of_one))
            print(f"{name:<22}{loss:>10.4f}{accuracy:>10.4f}  {_differs(of_one, runs[REFERENCE])}".rstrip())
    sys.stdout.flush()


def _row(workload: str, work: str, name: str, runs: dict[str, Runs]) -> str:
    """Return one contender's times and memory as a line of the table."""
    seconds, memory = runs[name].median(f"{work}_s"), runs[name].median(f"{work}_mb")
    line = f"{name:<22}{1000 * seconds:>10.1f}{1000 * max(runs[name].of(f'{work}_s')):>10.1f}"
    speed = _ratio(runs.get("snorkel"), runs[name], work)
    line += f"{'' if speed is None else f'{speed:.2f}':>8}"
    line += f"{_judged(speed, SPEED_GOALS[workload, work].get(name)):>14}"
    of_limit = _ratio(runs.get(OURS.get(name, "")), runs[name], work)
    line += f"{'' if of_limit is None else f'{of_limit:.2f}':>10}{_judged(of_limit, OF_LIMIT_GOAL):>15}"
    goal = MEMORY_GOALS.get((workload, work)) if name in OURS else None
    return (line + f"{memory:>9.1f}{_judged(-memory, goal and -goal):>14}").rstrip()


def _ratio(other: Runs | None, runs: Runs, work: str) -> float | None:
    """Return how many times as fast as the other one a contender was, the median over rounds; None without the other.

    Of each round by itself, since what else the machine does slows down the runs of a round alike.
    """
    if other is None or other.error:
        return None
    key = f"{work}_s"
    return statistics.median(its / own for its, own in zip(other.of(key), runs.of(key), strict=True))


def _judged(value: float | None, goal: float | None) -> str:
    """Say whether a value is at least its goal; a negative goal is an upper bound of what was negated."""
    if value is None or goal is None:
        return ""
    return f"{'≤' if goal < 0 else '≥'} {abs(goal):g} {'met' if value >= goal else 'MISSED'}"


def _accuracies(runs: Runs) -> list[float]:
    """Return each round's mean accuracy over tasks and splits."""
    return [statistics.mean(found["accuracies"].values()) for found in runs.found]


def _differs(runs: Runs, reference: Runs) -> str:
    """Say which of loss and accuracy spans rounds that are all outside what the reference's rounds span."""
    if reference.error:
        return ""
    differing = [
        name
        for name, own, its, noise in (
            ("loss", runs.of("loss"), reference.of("loss"), LOSS_NOISE * reference.median("loss")),
            ("accuracy", _accuracies(runs), _accuracies(reference), ACCURACY_NOISE),
        )
        # Written so that a NaN differs, too.
        if not (min(own) <= max(its) + noise and max(own) >= min(its) - noise)
    ]
    return f"differs by more than noise: {', '.join(differing)}" if differing else ""


if __name__ == "__main__":
    main()
