"""What saving a training as it stands costs, beside the same training that saves nothing.

Run it with ``python -m benchmarks.snapshots``: for a small and a large model it trains both ways in turns, and prints
how many snapshots were taken and the median ratio of the times. The goal is a ratio of at most 1.02.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    SnapshotFolder,
    Snapshots,
    Task,
    Trainer,
)

ROUNDS, GOAL = 7, 1.02
# Width of the trunk's two layers, batches of 64 in an epoch, epochs: some ten seconds each on two cores.
SIZES = {"small": (64, 200, 120), "large": (2048, 40, 20)}


class Counting(SnapshotFolder):
    """Counts what it keeps."""

    n = 0

    def add(self, write: Callable[[Path], None]) -> None:
        """Keep a snapshot."""
        super().add(write)
        self.n += 1


def train(width: int, n_batches: int, n_epochs: int, snapshots: Snapshots | None) -> float:
    """Train two tasks on a trunk, and return the seconds that took."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    tasks = [
        Task(
            name,
            {"trunk": trunk, name: nn.Linear(width, 2)},
            [Operation("trunk", [("_input_", "x")]), Operation(name, ["trunk"])],
        )
        for name in ("a", "b")
    ]
    n = 64 * n_batches
    labels = {task.name: torch.randint(0, 2, (n,)) for task in tasks}
    loader = DictDataLoader(
        DictDataset("d", "train", {"x": torch.randn(n, 32)}, labels), batch_size=64, shuffle=True
    )
    model = MultitaskClassifier(tasks, device=-1)
    start = time.perf_counter()
    Trainer(n_epochs=n_epochs, seed=1, progress_bar=False).fit(model, [loader], snapshots=snapshots)
    return time.perf_counter() - start


def main() -> None:
    for name, size in SIZES.items():
        ratios: list[float] = []
        n_taken: list[int] = []
        seconds: list[float] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                store = Counting(folder)
                plain, saving = train(*size, None), train(*size, Snapshots(store))
            ratios.append(saving / plain)
            n_taken.append(store.n)
            seconds.append(plain)
        ratio = statistics.median(ratios)
        print(
            f"{name}: {statistics.median(seconds):.1f} s without, {statistics.median(n_taken):g} snapshots,"
            f" ratio {ratio:.3f}, goal ≤ {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
