from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier
from mtl_core.training.validation import validate

from ..shapes import SHAPES, shape_data, shape_loaders, shape_task


def model_of(**kwargs: object) -> MultitaskClassifier:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.9))
    return MultitaskClassifier([shape_task(shape, trunk, **kwargs) for shape in SHAPES], device="cpu")


def test_the_overall_loss_is_the_mean_over_all_labelled_examples() -> None:
    circle, square = shape_data("circle", "valid", n=40), shape_data("square", "valid", n=20)
    square.Y_dict["square_task"][:10] = -1
    model = model_of()
    metrics = validate(model, [DictDataLoader(data, batch_size=16) for data in (circle, square)], "valid")
    losses = [metrics[f"{shape}_task/{shape}Dataset/valid/loss"] for shape in SHAPES]
    assert metrics["model/all/valid/loss"] == pytest.approx((40 * losses[0] + 10 * losses[1]) / 50)
    expected = model.eval().calculate_loss(circle.X_dict, circle.Y_dict)[0]["circle_task"].item()
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def test_without_labels_or_losses_there_is_no_overall_loss() -> None:
    assert validate(model_of(), [], "valid") == {}
    custom = model_of(loss_func=lambda outputs, labels: outputs.sum())
    metrics = validate(custom, shape_loaders(splits=("valid",)), "valid")
    assert set(metrics) == {f"{shape}_task/{shape}Dataset/valid/accuracy" for shape in SHAPES}
    data = shape_data("circle", "valid")
    data.Y_dict["circle_task"].fill_(-1)
    metrics = validate(model_of(), [DictDataLoader(data)], "valid")
    assert "model/all/valid/loss" not in metrics
    assert math.isnan(metrics["circle_task/circleDataset/valid/loss"])


def test_labels_that_look_at_another_tasks_path_are_scored_but_not_counted_twice() -> None:
    data = shape_data("circle", "valid")
    labels = data.Y_dict["circle_task"]
    members = torch.where(torch.arange(64) < 8, labels, -1)
    both = DictDataset("both", "valid", data.X_dict, {"circle_task": labels, "first_eight": members})
    model = model_of()
    model.remap_labels["first_eight"] = "circle_task"
    metrics = validate(model, [DictDataLoader(both, batch_size=16)], "valid")
    assert "first_eight/both/valid/accuracy" in metrics
    assert metrics["model/all/valid/loss"] == pytest.approx(metrics["circle_task/both/valid/loss"])
