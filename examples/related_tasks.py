"""Eight tasks that rest on the same three directions: with few labels each, they learn together what none can alone.

Run it with ``python examples/related_tasks.py``; ``--plot related.png`` draws both lines. Every task asks on which side
of a plane thirty numbers are; the planes differ, but all of them hang on the same three sums of the inputs. Each task
has points of its own, and of nothing else is there more for all tasks together than for one alone.

For each number of labels a task and each seed two models are trained on the same data, for as many epochs: one with a
trunk for all tasks, and one with a trunk of the same size for each. What is printed is the mean accuracy over the tasks
on points that no training has seen, and its spread over the seeds.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Task, Trainer

TASKS = tuple(f"task_{i}" for i in range(8))
N_INPUTS, N_DIRECTIONS = 30, 3
N_TEST = 1000
BATCH_SIZE = 20
WIDTH = 3
N_LABELS = (40, 80, 160, 640)
STEPS = 160
SEEDS = range(3)


@dataclass(frozen=True)
class Comparison:
    """Mean accuracy over the tasks, by seed.

    Attributes:
        n_labels: Labels of each task.
        shared: With one trunk.
        single: With a trunk for each task.
    """

    n_labels: int
    shared: list[float]
    single: list[float]


def make_loaders(n_labels: int, seed: int) -> list[DictDataLoader]:
    """Draw points of the normal distribution, others for each task, and label them."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(N_INPUTS, N_DIRECTIONS, generator=generator)
    loaders: list[DictDataLoader] = []
    for task in TASKS:
        plane = torch.randn(N_DIRECTIONS, generator=generator)
        for split, n in (("train", n_labels), ("test", N_TEST)):
            points = torch.randn(n, N_INPUTS, generator=generator)
            labels = (points @ directions @ plane > 0).long()
            data = DictDataset(task, split, {"point": points}, {task: labels})
            loaders.append(DictDataLoader(data, batch_size=BATCH_SIZE, shuffle=split == "train"))
    return loaders


def make_model(seed: int, *, shared: bool) -> MultitaskClassifier:
    """Return all tasks on one trunk, or each on its own."""
    torch.manual_seed(seed)
    trunks = {name: nn.Linear(N_INPUTS, WIDTH) for name in (["trunk"] if shared else TASKS)}
    tasks: list[Task] = []
    for name in TASKS:
        trunk = "trunk" if shared else name
        pool = {trunk: trunks[trunk], f"{name}_head": nn.Linear(WIDTH, 2)}
        path = [Operation(trunk, [("_input_", "point")]), Operation(f"{name}_head", [trunk])]
        tasks.append(Task(name, pool, path))
    return MultitaskClassifier(tasks, device="cpu")


def accuracy(n_labels: int, seed: int, *, shared: bool) -> float:
    """Train one model and return its mean accuracy over the tasks."""
    loaders = make_loaders(n_labels, seed)
    model = make_model(seed, shared=shared)
    epochs = max(1, STEPS * BATCH_SIZE // n_labels)
    trainer = Trainer(seed=seed, n_epochs=epochs, lr=0.01, l2=0.01, optimizer="adamw", progress_bar=False)
    trainer.fit(model, loaders)
    return fmean(model.score([loader for loader in loaders if loader.dataset.split == "test"]).values())


def plot(results: Iterable[Comparison], path: Path) -> None:
    """Draw the accuracy of both ways by the number of labels."""
    from matplotlib.figure import Figure  # noqa: PLC0415 Only those who want the picture need it.

    found = list(results)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, values in (
        ("one trunk for all tasks", [result.shared for result in found]),
        ("a trunk for each task", [result.single for result in found]),
    ):
        means, spreads = [fmean(of) for of in values], [pstdev(of) for of in values]
        axes.errorbar(
            [result.n_labels for result in found], means, spreads, label=label, capsize=3, marker="o"
        )
    axes.set(
        xlabel="labels of each task", ylabel="mean accuracy", title="What related tasks gain", xscale="log"
    )
    axes.legend()
    figure.savefig(path)


def main(
    n_labels: Iterable[int] = N_LABELS, seeds: Iterable[int] = SEEDS, picture: Path | None = None
) -> list[Comparison]:
    """Train both ways for every number of labels and seed, and print how they came out."""
    results: list[Comparison] = []
    chosen = list(seeds)
    print("labels a task   one trunk for all   a trunk for each")
    for n in n_labels:
        shared, single = ([accuracy(n, seed, shared=both) for seed in chosen] for both in (True, False))
        results.append(Comparison(n, shared, single))
        columns = [f"{fmean(of):.3f} ± {pstdev(of):.3f}" for of in (shared, single)]
        print(f"{n:>13} {columns[0]:>19} {columns[1]:>18}")
    if picture:
        plot(results, picture)
        print(f"drawn to {picture}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plot", type=Path, help="PNG file to draw to")
    main(picture=parser.parse_args().plot)
