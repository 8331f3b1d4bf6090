"""The tutorial's shape tasks, small: what most tests train and score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, Operation, Task

LINEAR_2_4: dict[str, Any] = {"type": "Linear", "in_features": 2, "out_features": 4}
LINEAR_4_2: dict[str, Any] = {"type": "Linear", "in_features": 4, "out_features": 2}
SHAPES = ("circle", "square")


def shape_task(
    shape: str, trunk: nn.Module | None = None, head: nn.Module | None = None, **kwargs: Any
) -> Task:
    """A task on its own field whose trunk, and whose operation on it, have the same names in every shape's task."""
    return Task(
        f"{shape}_task",
        {
            "base_mlp": trunk or nn.Sequential(nn.Linear(2, 4), nn.ReLU()),
            f"{shape}_head": head or nn.Linear(4, 2),
        },
        [
            Operation("base_mlp", [("_input_", f"{shape}_data")]),
            Operation(f"{shape}_head", ["base_mlp"]),
        ],
        **kwargs,
    )


def shape_spec(shape: str = "circle", **changes: Any) -> dict[str, Any]:
    """The same task as JSON."""
    return {
        "name": f"{shape}_task",
        "module_pool": {
            "base_mlp": {"type": "Sequential", "layers": [LINEAR_2_4, {"type": "ReLU"}]},
            f"{shape}_head": LINEAR_4_2,
        },
        "op_sequence": [
            {"module_name": "base_mlp", "inputs": [["_input_", f"{shape}_data"]]},
            {"module_name": f"{shape}_head", "inputs": ["base_mlp"]},
        ],
    } | changes


def shape_data(shape: str, split: str = "train", n: int = 64, seed: int = 0) -> DictDataset:
    points = torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    inside = points.norm(p=2 if shape == "circle" else 1, dim=1) < 0.8
    return DictDataset(f"{shape}Dataset", split, {f"{shape}_data": points}, {f"{shape}_task": inside.long()})


def shape_loaders(
    shapes: Iterable[str] = SHAPES, splits: Iterable[str] = ("train",), **kwargs: Any
) -> list[DictDataLoader]:
    options = {"batch_size": 16} | kwargs
    return [DictDataLoader(shape_data(shape, split), **options) for shape in shapes for split in splits]
