"""What a step costs with 1,000 tasks registered, of which a batch is labelled for 10, beside a model of those 10 alone.

Run it with ``python benchmarks/many_tasks.py``: it prints the median time between two steps of both models, trained in
turns in one process, and their ratio. The 1,000 tasks are labelled by 100 tables, ten each, whose batches come in mixed
order; the 10 by one table of as many batches. Trunk 128-256-128, heads of 4, batches of 128.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    FitListener,
    MultitaskClassifier,
    Operation,
    Progress,
    Task,
    Trainer,
)

N_TASKS, N_LABELLED, N_CLASSES, BATCH_SIZE, N_EPOCHS, ROUNDS, GOAL = 1000, 10, 4, 128, 5, 5, 1.2
N_BATCHES = 2 * N_TASKS // N_LABELLED
WIDTHS = (128, 256, 128)


class Clock(FitListener):
    """Notes when each batch was done."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_batch(self, progress: Progress) -> None:
        """Note the time."""
        self._times.append(time.perf_counter())

    def between(self) -> float:
        """Return the median of the seconds between two batches."""
        return statistics.median(later - earlier for earlier, later in pairwise(self._times))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainings = {n: _training(n) for n in (N_LABELLED, N_TASKS)}
    steps: dict[int, list[float]] = {n: [] for n in trainings}
    fits: dict[int, list[float]] = {n: [] for n in trainings}
    for round_ in range(1 + ROUNDS):
        for n, (model, loaders) in trainings.items():
            clock, start = Clock(), time.perf_counter()
            Trainer(progress_bar=False, n_epochs=N_EPOCHS, seed=round_, lr=1e-3).fit(model, loaders, clock)
            if round_:  # The first one warms up.
                fits[n].append(time.perf_counter() - start)
                steps[n].append(clock.between())
    for n in trainings:
        print(
            f"{n:>5} tasks: {1e6 * statistics.median(steps[n]):.0f} µs a step,"
            f" {1e3 * statistics.median(fits[n]):.0f} ms for a fit of {N_EPOCHS * N_BATCHES} steps"
        )
    ratio = statistics.median(many / few for many, few in zip(steps[N_TASKS], steps[N_LABELLED], strict=True))
    print(f"ratio of the steps: {ratio:.2f}, goal ≤ {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}")


def _training(n_tasks: int) -> tuple[MultitaskClassifier, list[DictDataLoader]]:
    """Return a model of so many tasks and the loaders of all their tables, ``N_BATCHES`` batches together."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(WIDTHS):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    trunk = nn.Sequential(*layers)
    names = [f"task_{i}" for i in range(n_tasks)]
    tasks = [
        Task(
            name,
            {"trunk": trunk, f"{name}_head": nn.Linear(WIDTHS[-1], N_CLASSES)},
            [Operation("trunk", [("_input_", "x")]), Operation(f"{name}_head", ["trunk"])],
        )
        for name in names
    ]
    n_rows = N_BATCHES * BATCH_SIZE * N_LABELLED // n_tasks
    loaders: list[DictDataLoader] = []
    for start in range(0, n_tasks, N_LABELLED):
        labelled = names[start : start + N_LABELLED]
        labels = {name: torch.randint(0, N_CLASSES, (n_rows,)) for name in labelled}
        table = DictDataset(f"table_{start}", "train", {"x": torch.randn(n_rows, WIDTHS[0])}, labels)
        loaders.append(DictDataLoader(table, batch_size=BATCH_SIZE, shuffle=True))
    return MultitaskClassifier(tasks, device="cpu"), loaders


if __name__ == "__main__":
    main()
