"""How soon the first training step is done after a process starts, beside how long ``import torch`` takes by itself.

Run it with ``python benchmarks/start_up.py``: it prints the median time from the start of a process to each of the two,
taken in turns, and the median ratio.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS, GOAL = 9, 1.15
IMPORT = "import torch; print(flush=True)"
FIRST_STEP = """
import torch
from torch import nn
from mtl_core import *
class Telling(FitListener):
    def on_batch(self, progress):
        print(flush=True)
task = Task("task", {"mlp": nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))},
            [Operation("mlp", [("_input_", "x")])])
points = DictDataset("points", "train", {"x": torch.rand(32, 2)}, {"task": torch.randint(0, 2, (32,))})
model = MultitaskClassifier([task], device="cpu")
Trainer(progress_bar=False).fit(model, [DictDataLoader(points, batch_size=32)], Telling())
"""


def main() -> None:
    seconds: dict[str, list[float]] = {IMPORT: [], FIRST_STEP: []}
    for round_ in range(1 + ROUNDS):
        for program, taken in seconds.items():
            found = _seconds_to_first_line(program)
            if round_:  # The first one reads files that are not in the page cache yet.
                taken.append(found)
    ratio = statistics.median(
        step / alone for step, alone in zip(seconds[FIRST_STEP], seconds[IMPORT], strict=True)
    )
    print(f"import torch: {statistics.median(seconds[IMPORT]):.2f} s")
    print(f"first training step: {statistics.median(seconds[FIRST_STEP]):.2f} s")
    print(f"ratio: {ratio:.2f}, goal ≤ {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}")


def _seconds_to_first_line(program: str) -> float:
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"the program failed:\n{program}")
    return seconds


if __name__ == "__main__":
    main()
