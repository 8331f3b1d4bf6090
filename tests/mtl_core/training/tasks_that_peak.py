"""Two tasks on one trunk, the first of which is best at evaluation 1: its validation labels contradict the others."""

from __future__ import annotations

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
    Task,
    Trainer,
)
from mtl_core.model.weights import module_weights

TASKS = ("early", "late")


def tasks_that_peak() -> tuple[MultitaskClassifier, list[DictDataLoader]]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    tasks = [
        Task(
            name,
            {"trunk": trunk, f"{name}_head": nn.Linear(8, 2)},
            [Operation("trunk", [("_input_", "x")]), Operation(f"{name}_head", ["trunk"])],
        )
        for name in TASKS
    ]
    points = torch.randn(64, 4)
    classes = {"early": (points[:, 0] > 0).long(), "late": (points[:, 1] * points[:, 2] > 0).long()}
    contradicting = classes | {"early": 1 - classes["early"]}
    loaders = [
        DictDataLoader(DictDataset(split, split, {"x": points}, labels), batch_size=16)
        for split, labels in (("train", classes), ("valid", contradicting), ("test", classes))
    ]
    return MultitaskClassifier(tasks, device="cpu"), loaders


class Recorder(FitListener):
    """Keeps the metrics and the model's weights at every evaluation, and every message."""

    def __init__(self, model: MultitaskClassifier) -> None:
        self.model = model
        self.metrics: list[dict[str, float]] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.messages: list[str] = []

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)
        self.weights.append(module_weights(self.model))

    def on_log(self, message: str) -> None:
        self.messages.append(message)


def fit(**settings: Any) -> tuple[MultitaskClassifier, Recorder]:
    model, loaders = tasks_that_peak()
    recorder = Recorder(model)
    trainer = Trainer(**({"progress_bar": False, "seed": 1, "n_epochs": 12, "lr": 0.05} | settings))
    trainer.fit(model, loaders, recorder)
    return model, recorder


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], module: str = "") -> bool:
    return all(torch.equal(first[key], second[key]) for key in first if key.startswith(module))
