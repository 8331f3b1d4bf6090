"""Multi-task learning in five minutes: two tasks that share a trunk, then a third one put beside them.

Run it with ``python examples/tutorial.py``. It is the multi-task tutorial of Snorkel's classification package,
told in our own words; code written for that package runs here with other import lines.
"""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    Scorer,
    Task,
    Trainer,
)

N = 1000
SEED = 123


def inside_circle(points: torch.Tensor) -> torch.Tensor:
    """Return int64 ``[n]``: 1 for points ``[n, 2]`` inside the circle that covers half of the square [-1, 1]²."""
    return (points.square().sum(dim=1) < 2 / torch.pi).long()


def inside_rotated_square(points: torch.Tensor) -> torch.Tensor:
    """Return int64 ``[n]``: 1 for points ``[n, 2]`` inside the square of corners (±1, 0) and (0, ±1)."""
    return (points.abs().sum(dim=1) < 1).long()


def make_datasets(
    name: str, field: str, points: torch.Tensor, task: str, labels: torch.Tensor
) -> list[DictDataset]:
    """Split ``N`` points and their labels 800/100/100 into the datasets of the three splits."""
    bounds = {"train": slice(0, 800), "valid": slice(800, 900), "test": slice(900, N)}
    return [
        DictDataset(
            name=name,
            split=split,
            X_dict={field: points[rows]},
            Y_dict={task: labels[rows]},
        )
        for split, rows in bounds.items()
    ]


def uniform_points(generator: torch.Generator) -> torch.Tensor:
    """Draw ``N`` points uniformly from the square [-1, 1]²: float32 ``[N, 2]``."""
    return torch.rand(N, 2, generator=generator) * 2 - 1


def main(seed: int = SEED) -> None:
    """Train and score two tasks, then three."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    # Data. A dataset holds named fields and, by the name of a task, labels. Points of the circle's dataset are
    # not labelled for the square's task, and the other way round: the tasks meet only in the model.
    circle_points = uniform_points(generator)
    square_points = uniform_points(generator)
    datasets = [
        *make_datasets(
            "circleDataset", "circle_data", circle_points, "circle_task", inside_circle(circle_points)
        ),
        *make_datasets(
            "squareDataset", "square_data", square_points, "square_task", inside_rotated_square(square_points)
        ),
    ]
    all_dataloaders = [DictDataLoader(dataset, batch_size=32) for dataset in datasets]

    # Modules. One trunk for both tasks, and a head for each.
    base_mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())
    circle_head_module = nn.Linear(4, 2)
    square_head_module = nn.Linear(4, 2)

    # Tasks. Each is a path: which module runs on what, up to the outputs that loss, output function and scorer
    # judge. Both pools hold the trunk under one name, so in the model it is one trunk.
    circle_task = Task(
        name="circle_task",
        module_pool=nn.ModuleDict({"base_mlp": base_mlp, "circle_head_module": circle_head_module}),
        op_sequence=[
            Operation(name="base_mlp", module_name="base_mlp", inputs=[("_input_", "circle_data")]),
            Operation(name="circle_head", module_name="circle_head_module", inputs=["base_mlp"]),
        ],
        loss_func=F.cross_entropy,
        output_func=partial(F.softmax, dim=1),
        scorer=Scorer(metrics=["accuracy"]),
    )
    # What that task spells out is what a task has by default.
    square_task = Task(
        name="square_task",
        module_pool=nn.ModuleDict({"base_mlp": base_mlp, "square_head": square_head_module}),
        op_sequence=[
            Operation("base_mlp", [("_input_", "square_data")]),
            Operation("square_head", ["base_mlp"]),
        ],
        scorer=Scorer(metrics=["accuracy"]),
    )

    # Training draws batches of both datasets at random; each moves the trunk and one head.
    model = MultitaskClassifier([circle_task, square_task])
    trainer = Trainer(n_epochs=10, lr=0.02)
    trainer.fit(model, all_dataloaders)
    print_scores("two tasks", model.score(all_dataloaders))

    # The exercise: a third task, whose labels are the circle's the other way round, on points of its own.
    points = uniform_points(generator)
    inv_circle_datasets = make_datasets(
        "inv_circleDataset", "inv_circle_data", points, "inv_circle_task", 1 - inside_circle(points)
    )
    all_dataloaders += [DictDataLoader(dataset, batch_size=32) for dataset in inv_circle_datasets]
    inv_circle_task = Task(
        name="inv_circle_task",
        module_pool=nn.ModuleDict({"base_mlp": base_mlp, "inv_circle_head": nn.Linear(4, 2)}),
        op_sequence=[
            Operation("base_mlp", [("_input_", "inv_circle_data")]),
            Operation("inv_circle_head", ["base_mlp"]),
        ],
    )
    model = MultitaskClassifier([circle_task, square_task, inv_circle_task])
    print(f"{len(model.tasks)} tasks, {len(model.module_pool)} modules in the pool")
    trainer.fit(model, all_dataloaders)
    print_scores("three tasks", model.score(all_dataloaders))


def print_scores(title: str, scores: dict[str, float]) -> None:
    """Print scores by their flat keys, one a line."""
    print(f"{title}:")
    for key, value in scores.items():
        print(f"  {key}: {value:.3f}")


if __name__ == "__main__":
    main()
