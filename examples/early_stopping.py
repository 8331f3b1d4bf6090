"""Two tasks on one trunk: one overfits its few, partly wrong labels long before the other has converged.

Run it with ``python examples/early_stopping.py``. Both tasks read the same ten numbers. ``few`` asks on which side of a
plane they are and has 200 labels, three in ten of them wrong: after some epochs it starts to learn those by heart.
``many`` asks for the sign of a sum of three products and has 3,000 labels: it gets better to the end. No epoch of a
plain training is good for both.

For each seed the model is trained twice on the same data, for as many epochs: plainly, and with ``early_stopping``
``per_task``. What is printed is each task's accuracy on points that no training has seen: in the plain training at the
epoch that was best for this task alone, which only someone who knows those points could pick, and at its end; and at
the end of the other training.
"""

from collections.abc import Iterable
from dataclasses import dataclass

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

TASKS = ("few", "many")
N_TRAIN = {"few": 200, "many": 3000}
BATCH_SIZE = {"few": 10, "many": 100}
N_HELD_OUT = 10_000
WRONG = 0.3
WIDTH = 64
EPOCHS = 30
SEEDS = range(3)


@dataclass(frozen=True)
class Comparison:
    """One task's accuracy on unseen points.

    Attributes:
        best: Of the plain training, at the epoch where it was highest.
        last: Of the plain training, at its end.
        per_task: Of the training in which each task stops by itself, at its end.
    """

    task: str
    best: float
    last: float
    per_task: float


def true_classes(task: str, points: torch.Tensor) -> torch.Tensor:
    """Return the classes of points ``[n, 10]``, int64 ``[n]``."""
    if task == "few":
        return (points[:, :5].sum(dim=1) > 0).long()
    return ((points[:, 0:6:2] * points[:, 1:6:2]).sum(dim=1) > 0).long()


def make_loaders(seed: int) -> list[DictDataLoader]:
    """Draw points of the normal distribution: for each task some to train on, and others to score both on."""
    generator = torch.Generator().manual_seed(seed)
    loaders: list[DictDataLoader] = []
    for task in TASKS:
        points = torch.randn(N_TRAIN[task], 10, generator=generator)
        classes = true_classes(task, points)
        if task == "few":
            wrong = torch.rand(len(points), generator=generator) < WRONG
            classes = torch.where(wrong, 1 - classes, classes)
        dataset = DictDataset(task, "train", {"point": points}, {task: classes})
        loaders.append(DictDataLoader(dataset, batch_size=BATCH_SIZE[task], shuffle=True))
    for split in ("valid", "test"):
        points = torch.randn(N_HELD_OUT, 10, generator=generator)
        labels = {task: true_classes(task, points) for task in TASKS}
        loaders.append(
            DictDataLoader(DictDataset("points", split, {"point": points}, labels), batch_size=N_HELD_OUT)
        )
    return loaders


def make_model(seed: int) -> MultitaskClassifier:
    """Return a trunk with a head for each task."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(10, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    tasks = [
        Task(
            name=name,
            module_pool={"trunk": trunk, f"{name}_head": nn.Linear(WIDTH, 2)},
            op_sequence=[Operation("trunk", [("_input_", "point")]), Operation(f"{name}_head", ["trunk"])],
        )
        for name in TASKS
    ]
    return MultitaskClassifier(tasks, device="cpu")


class TestScores(FitListener):
    """Keeps the accuracy on unseen points after every epoch, and what the trainer has to say.

    Args:
        model: The model that is trained.
        loaders: Loaders of all splits.
    """

    def __init__(self, model: MultitaskClassifier, loaders: Iterable[DictDataLoader]) -> None:
        self.model = model
        self.loaders = [loader for loader in loaders if loader.dataset.split == "test"]
        self.history: list[dict[str, float]] = []
        self.messages: list[str] = []

    def scores(self) -> dict[str, float]:
        """Return each task's accuracy now."""
        scores = self.model.score(self.loaders)
        return {task: scores[f"{task}/points/test/accuracy"] for task in TASKS}

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Score the model once more, on points that the trainer does not know."""
        self.history.append(self.scores())

    def on_log(self, message: str) -> None:
        """Keep the message."""
        self.messages.append(message)


def compare(seed: int, epochs: int = EPOCHS) -> tuple[list[Comparison], list[str]]:
    """Train twice, and return each task's scores and what the second training had to say."""
    loaders = make_loaders(seed)

    def train(**settings: object) -> TestScores:
        model = make_model(seed)
        heard = TestScores(model, loaders)
        trainer = Trainer(seed=seed, n_epochs=epochs, lr=0.002, progress_bar=False, **settings)
        trainer.fit(model, loaders, heard)
        return heard

    plain = train()
    stopped = train(
        early_stopping=True,
        early_stopping_config={"per_task": True, "metric": "*/*/valid/accuracy:max", "patience": 8},
    )
    final = stopped.scores()
    comparisons = [
        Comparison(task, max(scores[task] for scores in plain.history), plain.history[-1][task], final[task])
        for task in TASKS
    ]
    return comparisons, stopped.messages


def main(seeds: Iterable[int] = SEEDS, epochs: int = EPOCHS) -> list[Comparison]:
    """Compare the trainings for some seeds, print what comes out and return it."""
    results: list[Comparison] = []
    print("seed  task  plain, best epoch  plain, last  per task  per task - best")
    for seed in seeds:
        comparisons, messages = compare(seed, epochs)
        for found in comparisons:
            difference = found.per_task - found.best
            scores = f"{found.best:17.4f}  {found.last:11.4f}  {found.per_task:8.4f}  {difference:+15.4f}"
            print(f"{seed:4}  {found.task:4}  {scores}")
        for message in messages:
            print(f"      {message}")
        results += comparisons
    worst = min(found.per_task - found.best for found in results)
    print(f"per task, no score is below its own best epoch's by more than {max(0.0, -worst):.4f}")
    return results


if __name__ == "__main__":
    # More threads would only wait for one another on layers this small.
    torch.set_num_threads(1)
    main()
