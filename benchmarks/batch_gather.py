"""How much faster a loader gathers batches by index than it collates them example by example.

Run it with ``python benchmarks/batch_gather.py``: it prints the median time of one pass over the same data on both
ways, taken in turns in one process, and their ratio. The batches are compared first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from mtl_core import DictDataLoader, DictDataset
from mtl_core.data import Batch, collate_dicts

N_EXAMPLES, N_FEATURES, BATCH_SIZE, ROUNDS = 20_000, 64, 32, 9


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = DictDataset(
        "points",
        "train",
        {"x": torch.rand(N_EXAMPLES, N_FEATURES)},
        {"task": torch.randint(0, 10, (N_EXAMPLES,))},
    )
    gathering = DictDataLoader(dataset, batch_size=BATCH_SIZE)
    # Any collate function of one's own takes the path that builds a batch example by example.
    collating = DictDataLoader(dataset, collate_fn=_collate, batch_size=BATCH_SIZE)
    for gathered, collated in zip(gathering, collating, strict=True):
        assert torch.equal(gathered[0]["x"], collated[0]["x"])
        assert torch.equal(gathered[1]["task"], collated[1]["task"])

    seconds: dict[str, list[float]] = {"gather": [], "collate": []}
    for _ in range(ROUNDS):
        seconds["gather"].append(_pass_over(gathering))
        seconds["collate"].append(_pass_over(collating))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{N_EXAMPLES:,} examples of {N_FEATURES} numbers in batches of {BATCH_SIZE}, {ROUNDS} passes each")
    for name, median in medians.items():
        spread = f"{min(seconds[name]):.3f} to {max(seconds[name]):.3f}"
        print(f"{name}: {median:.3f} s a pass ({spread})")
    print(f"ratio: {medians['collate'] / medians['gather']:.1f}")


def _collate(examples: Sequence[Batch]) -> Batch:
    return collate_dicts(examples)


def _pass_over(loader: DictDataLoader) -> float:
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
