"""The tutorial's world: points in a square, labelled by the shape that they lie in."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tests.service.client import Api, unique

SPLITS = {"train": 0.8, "valid": 0.1, "test": 0.1}
# Trains until it is stopped, and writes next to nothing meanwhile.
ENDLESS: dict[str, Any] = {"n_epochs": 100_000, "log_manager_config": {"evaluation_freq": 10_000}}


def mlp(*sizes: int) -> dict[str, Any]:
    """Return the spec of linear layers of these sizes, each with a ReLU."""
    layers: list[dict[str, Any]] = []
    for n_in, n_out in pairwise(sizes):
        layers += [{"type": "Linear", "in_features": n_in, "out_features": n_out}, {"type": "ReLU"}]
    return {"type": "Sequential", "layers": layers}


def points(kind: str, n: int, seed: int = 7) -> tuple[list[list[float]], list[int]]:
    """Return points and their labels: 1 inside the circle or square; the other way for ``inv_circle``."""
    xy = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    if kind == "square":
        inside = (np.abs(xy) < 0.7).all(axis=1)
    else:
        inside = (np.square(xy).sum(axis=1) < 0.64) != (kind == "inv_circle")
    return xy.round(4).tolist(), inside.astype(int).tolist()


@dataclass
class Shapes:
    """Tasks, datasets and a model of names that no other test uses."""

    api: Api
    suffix: str = field(default_factory=lambda: unique("s"))

    def task(self, kind: str) -> str:
        """Return a task's name."""
        return f"{kind}_task-{self.suffix}"

    def dataset(self, kind: str) -> str:
        """Return a dataset's name."""
        return f"{kind}Dataset-{self.suffix}"

    @property
    def model(self) -> str:
        """The model's name."""
        return f"shapes-{self.suffix}"

    def spec(self, kind: str, **changes: Any) -> dict[str, Any]:
        """Return a task's spec."""
        return {
            "name": self.task(kind),
            "module_pool": {
                "base_mlp": mlp(2, 8, 4),
                f"{kind}_head_module": {"type": "Linear", "in_features": 4, "out_features": 2},
            },
            "op_sequence": [
                {"name": "base_mlp", "module_name": "base_mlp", "inputs": [["_input_", f"{kind}_data"]]},
                {"name": f"{kind}_head", "module_name": f"{kind}_head_module", "inputs": ["base_mlp"]},
            ],
        } | changes

    def split(self, kind: str, split: str, n: int, seed: int = 7) -> dict[str, Any]:
        """Return one split of a dataset."""
        xy, labels = points(kind, n, seed)
        return {
            "name": self.dataset(kind),
            "split": split,
            "X_dict": {f"{kind}_data": xy},
            "Y_dict": {self.task(kind): labels},
        }

    def add(self, kind: str, n: int = 64, splits: tuple[str, ...] = ("train",)) -> None:
        """Register a task and its dataset, ``n`` examples in every split."""
        self.api.post("/v1/tasks", self.spec(kind))
        for i, split in enumerate(splits):
            self.api.post("/v1/datasets", self.split(kind, split, n, seed=7 + i))

    def make_noisy(self) -> Shapes:
        """Register circles and squares, some without labels, and a model whose trunk has dropout and statistics."""
        trunk = {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 8},
                {"type": "BatchNorm1d", "num_features": 8},
                {"type": "ReLU"},
                {"type": "Dropout", "p": 0.2},
                {"type": "Linear", "in_features": 8, "out_features": 4},
            ],
        }
        for kind in ("circle", "square"):
            spec = self.spec(kind)
            spec["module_pool"]["base_mlp"] = trunk
            self.api.post("/v1/tasks", spec)
            for i, split in enumerate(("train", "valid")):
                body = self.split(kind, split, 64, seed=7 + i)
                body["Y_dict"][self.task(kind)][::7] = [None] * 10
                self.api.post("/v1/datasets", body)
        tasks = [self.task("circle"), self.task("square")]
        self.api.post("/v1/models", {"name": self.model, "tasks": tasks})
        return self

    def make(self, *kinds: str, n: int = 64, splits: tuple[str, ...] = ("train",)) -> Shapes:
        """Register tasks with their datasets, and a model of them."""
        for kind in kinds:
            self.add(kind, n, splits)
        self.api.post("/v1/models", {"name": self.model, "tasks": [self.task(kind) for kind in kinds]})
        return self
