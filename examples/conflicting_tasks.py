"""A loud task and a quiet one on a trunk with room for both: summed, the quiet one is never heard.

Run it with ``python examples/conflicting_tasks.py``; ``--plot conflict.png`` draws the quiet task's accuracy by epoch.
Both tasks read the same twenty numbers, through two hidden units. ``loud`` asks for a number that follows from the
first of them and is half noise, measured in units so small that its losses are in the hundreds. ``quiet`` asks for the
sign of the second, which no noise disturbs, and its loss is below one. In their sum the noise of ``loud`` alone is
larger than all that ``quiet`` has to say, so both hidden units go to ``loud``, which needs one.

For each way of balancing and seed the model is trained on the same data, for as many epochs. What is printed is both
tasks' scores on points that no training has seen (for ``loud``, 0.5 is what its noise leaves to explain), and the mean
cosine of their gradients on the trunk.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    FitListener,
    MultitaskClassifier,
    Operation,
    Progress,
    Scorer,
    Task,
    Trainer,
)
from mtl_core.losses import BinaryCrossEntropy, MeanSquaredError
from mtl_core.outputs import Identity, Sigmoid

N_POINTS = 1000
N_INPUTS = 20
WIDTH = 2
SCALE = 20.0
EPOCHS = 30
SEEDS = range(3)
METHODS = ("sum", "uncertainty", "pcgrad", "upgrad", "imtl_g", "aligned_mtl", "config")


@dataclass(frozen=True)
class Result:
    """How one training ended.

    Attributes:
        method: The way of balancing.
        loud: Share of the variance of ``loud`` that is explained on unseen points.
        quiet: Accuracy of ``quiet`` on unseen points, after each epoch.
        cosine: Mean cosine of the two tasks' gradients on the trunk.
    """

    method: str
    loud: float
    quiet: list[float]
    cosine: float


def make_loader(split: str, seed: int) -> DictDataLoader:
    """Draw points of the normal distribution, labelled for both tasks."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(N_POINTS, N_INPUTS, generator=generator)
    loud = SCALE * (points[:, :1] + torch.randn(N_POINTS, 1, generator=generator))
    quiet = (points[:, 1:2] > 0).long()
    data = DictDataset("points", split, {"point": points}, {"loud": loud, "quiet": quiet})
    return DictDataLoader(data, batch_size=50, shuffle=split == "train")


def make_model(seed: int) -> MultitaskClassifier:
    """Return two hidden units with a head for each task."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(N_INPUTS, WIDTH), nn.Tanh())

    def task(name: str, **judged: Any) -> Task:
        path = [Operation("trunk", [("_input_", "point")]), Operation(f"{name}_head", ["trunk"])]
        return Task(name, {"trunk": trunk, f"{name}_head": nn.Linear(WIDTH, 1)}, path, **judged)

    loud = task("loud", loss_func=MeanSquaredError(), output_func=Identity(), scorer=Scorer(["r2"]))
    quiet = task("quiet", loss_func=BinaryCrossEntropy(), output_func=Sigmoid(), scorer=Scorer(["accuracy"]))
    return MultitaskClassifier([loud, quiet], device="cpu")


class TestScores(FitListener):
    """Keeps the scores on unseen points after every epoch.

    Args:
        model: The model that is trained.
        loader: The points.
    """

    def __init__(self, model: MultitaskClassifier, loader: DictDataLoader) -> None:
        self.model = model
        self.loader = loader
        self.history: list[dict[str, float]] = []

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Score the model after an epoch; what is heard in between are the gradients' angles."""
        if "model/all/train/loss" in metrics:
            self.history.append(self.model.score([self.loader]))


def train(method: str, seed: int, epochs: int = EPOCHS) -> Result:
    """Train with one way of balancing."""
    model = make_model(seed)
    heard = TestScores(model, make_loader("test", seed + 1000))
    trainer = Trainer(
        seed=seed, n_epochs=epochs, lr=0.05, balancing=method, diagnosis=True, progress_bar=False
    )
    trainer.fit(model, [make_loader("train", seed)], heard)
    return Result(
        method,
        heard.history[-1]["loud/points/test/r2"],
        [scores["quiet/points/test/accuracy"] for scores in heard.history],
        trainer.affinities["loud", "quiet"],
    )


def plot(results: Iterable[Result], path: Path) -> None:
    """Draw the quiet task's accuracy by epoch, the mean over the seeds of each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415 Only those who want the picture need it.

    by_method: dict[str, list[list[float]]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result.quiet)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for method, histories in by_method.items():
        means = [fmean(of_epoch) for of_epoch in zip(*histories, strict=True)]
        axes.plot(range(1, len(means) + 1), means, label=method)
    axes.set(xlabel="epoch", ylabel="accuracy of the quiet task", title="Who hears the quiet task?")
    axes.axhline(0.5, color="grey", linewidth=0.5)
    axes.legend()
    figure.savefig(path)


def main(
    methods: Iterable[str] = METHODS,
    seeds: Iterable[int] = SEEDS,
    epochs: int = EPOCHS,
    picture: Path | None = None,
) -> list[Result]:
    """Train with every method and seed, and print how both tasks came out."""
    results: list[Result] = []
    print("method       seed  loud r2  quiet accuracy  cosine of gradients")
    for method in methods:
        for seed in seeds:
            result = train(method, seed, epochs)
            results.append(result)
            print(
                f"{method:<12} {seed:>4} {result.loud:>8.3f} {result.quiet[-1]:>15.3f} {result.cosine:>20.2f}"
            )
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
