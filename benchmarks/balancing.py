"""What a step of training costs by balancing method, as a ratio to the plain sum of the losses.

Run it with ``python benchmarks/balancing.py``: it prints the median ratio of each method, where it looks at gradients
both on the parameters that tasks share and on the representation. A step is 16 tasks with linear heads on one trunk,
128-256-128, and a batch of 512. All methods take their steps in turns in one process, each beside the plain sum.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from mtl_core import MultitaskClassifier, Operation, Task
from mtl_core.model.cut import Cut
from mtl_core.training.balancing import BALANCERS

N_TASKS, N_CLASSES, BATCH_SIZE, ROUNDS, WARM_UP = 16, 10, 512, 15, 2
WIDTHS = (128, 256, 128)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = Training("sum")
    trainings = {(name, on): Training(spec) for name, on, spec in _specs()}
    ratios: dict[tuple[str, str], list[float]] = {key: [] for key in trainings}
    seconds: list[float] = []
    for turn in range(WARM_UP + ROUNDS):
        for key, training in trainings.items():
            summing, balancing = plain.step(), training.step()
            if turn >= WARM_UP:
                ratios[key].append(balancing / summing)
                seconds.append(summing)
    print(f"{N_TASKS} tasks on a trunk {'-'.join(map(str, WIDTHS))}, batches of {BATCH_SIZE}, one thread")
    print(f"plain sum: {statistics.median(seconds) * 1000:.1f} ms a step; medians of {ROUNDS} ratios to it:")
    print(f"{'method':<14}{'losses':>16}{'parameters':>16}{'representation':>16}")
    for name in dict.fromkeys(name for name, _ in ratios):
        cells = [ratios.get((name, on)) for on in ("losses", "parameters", "representation")]
        print(
            f"{name:<14}"
            + "".join(f"{statistics.median(cell):>16.2f}" if cell else " " * 16 for cell in cells)
        )


class Training:
    """Steps of Adam on one model and batch, by one method."""

    def __init__(self, spec: Any) -> None:
        layers: list[nn.Module] = []
        for width, following in pairwise(WIDTHS):
            layers += [nn.Linear(width, following), nn.ReLU()]
        trunk = nn.Sequential(*layers)
        tasks = [
            Task(
                f"task_{i}",
                {"trunk": trunk, f"head_{i}": nn.Linear(WIDTHS[-1], N_CLASSES)},
                [Operation("trunk", [("_input_", "x")]), Operation(f"head_{i}", ["trunk"])],
            )
            for i in range(N_TASKS)
        ]
        self._model = MultitaskClassifier(tasks, device="cpu")
        self._X = {"x": torch.randn(BATCH_SIZE, WIDTHS[0])}
        self._Y = {task.name: torch.randint(0, N_CLASSES, (BATCH_SIZE,)) for task in tasks}
        self._balancer = BALANCERS.build(spec)
        self._balancer.begin(self._model, list(self._model.tasks))
        trained = [*self._model.parameters(), *self._balancer.parameters().values()]
        self._optimizer = torch.optim.Adam(trained, lr=1e-3)

    def step(self) -> float:
        """Take a step and return how many seconds it took."""
        start = time.perf_counter()
        self._optimizer.zero_grad()
        cut = Cut() if self._balancer.cuts else None
        self._balancer.backward(self._losses(cut), cut, lambda loss: loss)
        self._optimizer.step()
        if self._balancer.wants_losses_again:
            with torch.no_grad():
                self._balancer.after_step(self._losses)
        return time.perf_counter() - start

    def _losses(self, cut: Cut | None = None) -> dict[str, torch.Tensor]:
        return self._model.calculate_loss(self._X, self._Y, cut)[0]


def _specs() -> Iterator[tuple[str, str, Any]]:
    """Yield name, what is looked at, and spec."""
    given: dict[str, dict[str, Any]] = {"fixed": {"weights": {"task_0": 2}}}
    looking = {
        entry["type"] for entry in BALANCERS.describe() if "on" in entry["arguments"].get("properties", {})
    }
    for name in BALANCERS.entries:
        if name == "nash_mtl" and not (find_spec("cvxpy") and find_spec("ecos")):
            continue
        spec = {"type": name} | given.get(name, {})
        if name not in looking:
            yield name, "losses", spec
        else:
            for on in ("parameters", "representation"):
                yield name, on, spec | {"on": on}


if __name__ == "__main__":
    main()
