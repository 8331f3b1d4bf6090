"""What saving a training as it stands costs, beside the same training that saves nothing.

Run it with ``python -m benchmarks.snapshots``: for a small and a large model it trains both ways in turns, each first
every other time, and prints how many snapshots were taken, the share of the time within which nothing else was done,
which is to be 2 % at most, and the ratio of the whole times with its quartiles, which shows what comes beside that.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

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

ROUNDS, GOAL = 8, 0.02
# Width of the trunk's two layers, batches of 64 in an epoch, epochs: some ten seconds each on two cores.
SIZES = {"small": (64, 200, 120), "large": (2048, 40, 20)}


class Timed(Snapshots):
    """Measures what saving takes."""

    n, seconds = 0, 0.0

    def save(self, state_dict: Callable[[], Mapping[str, Any]]) -> None:
        """Save a snapshot."""
        start = time.perf_counter()
        super().save(state_dict)
        self.seconds += time.perf_counter() - start
        self.n += 1


def train_saving(*size: int) -> tuple[float, Timed]:
    """Train with snapshots, and return the seconds that took, and theirs."""
    with tempfile.TemporaryDirectory() as folder:
        snapshots = Timed(SnapshotFolder(folder))
        return train(*size, snapshots), snapshots


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
        shares: list[float] = []
        n_taken: list[int] = []
        seconds: list[float] = []
        for i in range(ROUNDS):
            if i % 2:
                plain, (saving, snapshots) = train(*size, None), train_saving(*size)
            else:
                (saving, snapshots), plain = train_saving(*size), train(*size, None)
            ratios.append(saving / plain)
            shares.append(snapshots.seconds / saving)
            n_taken.append(snapshots.n)
            seconds.append(plain)
        share = statistics.median(shares)
        low, ratio, high = statistics.quantiles(ratios)
        print(
            f"{name}: {statistics.median(seconds):.1f} s without, {statistics.median(n_taken):g} snapshots, which took"
            f" {share:.2%} of the time, goal ≤ {GOAL:.0%}: {'met' if share <= GOAL else 'MISSED'};"
            f" ratio of the whole {ratio:.3f} ({low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
