"""How fast, and in how much memory, a model trains from mapped files, held against tensors in memory.

Run it with ``python benchmarks/larger_than_memory.py --gb 10``: it writes a data set of that size to a temporary
folder, reads it once so that the page cache has it, and trains one small network for the same steps on shuffled
batches of both, taken in turns in one process. It prints the examples per second of both and their ratio, and how far
the memory of a further process grew that trained from the files alone. Where the whole does not fit beside the page
cache, the tensors in memory are its first rows; the output says so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, MappedDataset, MultitaskClassifier, Operation, Task
from mtl_core.data import Batch
from mtl_core.mapped import ArrayWriter

N_FEATURES, BATCH_SIZE, CHUNK = 256, 256, 65_536
ROW_BYTES = N_FEATURES * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=2.0, help="size of the data set, 10^9 bytes; default 2")
    parser.add_argument("--steps", type=int, default=1000, help="batches in each round; default 1000")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each kind; default 7")
    arguments = parser.parse_args()
    n_rows = int(arguments.gb * 1e9 / ROW_BYTES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, n_rows)
        print(f"{n_rows:,} examples of {N_FEATURES} numbers, {n_rows * ROW_BYTES / 1e9:.1f} GB")
        _compare(folder, n_rows, arguments.steps, arguments.rounds)
        # A process of its own: what this one holds in memory would hide what the mapped data set adds.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            growth = pool.submit(_peak_growth, folder, 3 * arguments.steps).result()
        print(f"peak growth of resident memory while training from the files: {growth / 1e6:.0f} MB")


def _compare(folder: Path, n_rows: int, steps: int, rounds: int) -> None:
    """Train from files and from memory in turns and print how fast each was."""
    mapped = _mapped(folder)
    # The page cache counts as available, but must keep the files.
    room = int(_memory("/proc/meminfo", "MemAvailable") - 1.3 * n_rows * ROW_BYTES - 2 * 10**9)
    in_memory_rows = min(n_rows, max(room // ROW_BYTES, 10**9 // ROW_BYTES))
    share = "all" if in_memory_rows == n_rows else f"the first {in_memory_rows:,}"
    print(f"in memory: {share} of them")
    slices = [values[:in_memory_rows].clone() for values in (mapped.X_dict["x"], mapped.Y_dict["task"])]
    runs = {
        "mapped": (_batches(mapped), _model()),
        "in memory": (
            _batches(DictDataset("points", "train", {"x": slices[0]}, {"task": slices[1]})),
            _model(),
        ),
    }
    speeds: dict[str, list[float]] = {kind: [] for kind in runs}
    for round_ in range(rounds + 1):
        for kind, (batches, model) in runs.items():
            start = time.perf_counter()
            _train(model, islice(batches, steps))
            if round_:  # The first one starts the shuffling, and warms up.
                speeds[kind].append(steps * BATCH_SIZE / (time.perf_counter() - start))
    for kind, values in speeds.items():
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"{kind}: {statistics.median(values):,.0f} examples/s ({spread})")
    ratio = statistics.median(m / i for m, i in zip(*speeds.values(), strict=True))
    print(f"ratio mapped / in memory: {ratio:.2f}")


def _peak_growth(folder: Path, steps: int) -> int:
    """Return by how many bytes this process's memory grew at most while it trained from the files."""
    model = _model()
    # What torch itself takes for its first steps is no part of the data set.
    examples = torch.rand(BATCH_SIZE, N_FEATURES), torch.randint(0, 2, (BATCH_SIZE,))
    _train(model, [({"x": examples[0]}, {"task": examples[1]})] * 50)
    before = peak = _memory("/proc/self/status", "VmRSS")
    for batch in islice(_batches(_mapped(folder)), steps):
        _train(model, [batch])
        peak = max(peak, _memory("/proc/self/status", "VmRSS"))
    return peak - before


def _write(folder: Path, n_rows: int) -> None:
    random = np.random.default_rng(0)
    plane = random.standard_normal(N_FEATURES).astype(np.float32)
    with (
        ArrayWriter(folder / "x.npy", "float32", (N_FEATURES,), n_rows) as x_writer,
        ArrayWriter(folder / "y.npy", "int64", (), n_rows) as y_writer,
    ):
        for start in range(0, n_rows, CHUNK):
            points = random.random((min(CHUNK, n_rows - start), N_FEATURES), dtype=np.float32) - 0.5
            x_writer.write(points)
            y_writer.write((points @ plane > 0).astype(np.int64))
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def _mapped(folder: Path) -> MappedDataset:
    return MappedDataset.open("points", "train", {"x": folder / "x.npy"}, {"task": folder / "y.npy"})


def _batches(dataset: DictDataset) -> Iterator[Batch]:
    """Yield shuffled batches without end."""
    loader = DictDataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    return chain.from_iterable(repeat(loader))


def _model() -> MultitaskClassifier:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    mlp = nn.Sequential(nn.Linear(N_FEATURES, 64), nn.ReLU(), nn.Linear(64, 2))
    return MultitaskClassifier(
        [Task("task", {"mlp": mlp}, [Operation("mlp", [("_input_", "x")])])], device="cpu"
    )


def _train(model: MultitaskClassifier, batches: Iterator[Batch] | list[Batch]) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for fields, labels in batches:
        losses, _ = model.calculate_loss(fields, labels)
        optimizer.zero_grad()
        losses["task"].backward()
        optimizer.step()


def _memory(file: str, key: str) -> int:
    """Return an entry of Linux's account of memory in bytes."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    main()
