from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import MultitaskClassifier, TaskloomError
from mtl_core.training.checkpointer import Checkpointer

from ..shapes import shape_task

F1 = "task/dataset/valid/f1"
F2 = "task/dataset/valid/f2"


def checkpointer(folder: Path, metric: Any = f"{F1}:max", **settings: Any) -> Checkpointer:
    return Checkpointer("epochs", 1, checkpoint_dir=str(folder), checkpoint_metric=metric, **settings)


def model_at(value: float) -> MultitaskClassifier:
    model = MultitaskClassifier([shape_task("circle")], device=-1)
    set_to(model, value)
    return model


def set_to(model: MultitaskClassifier, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)


def value_of(model: MultitaskClassifier) -> float:
    (value,) = {entry for parameter in model.parameters() for entry in parameter.flatten().tolist()}
    return value


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_best_model_comes_back_and_the_others_are_cleared(tmp_path: Path) -> None:
    keeper, model = checkpointer(tmp_path), model_at(0)
    for iteration, f1 in enumerate([0.5, 0.9, math.nan, 0.9, 0.7], start=1):
        set_to(model, iteration)
        keeper.checkpoint(iteration, model, {F1: f1, F2: 0.0})
    best = "best_model_task_dataset_valid_f1.safetensors"
    assert files(tmp_path) == [best, "checkpoint_5.safetensors"]
    keeper.clear()
    assert files(tmp_path) == [best]
    assert keeper.load_best_model(model) is model
    assert value_of(model) == 2
    assert keeper.best_metric_dict == {F1: 0.9}


def test_less_is_better_where_the_mode_says_so(tmp_path: Path) -> None:
    keeper, model = checkpointer(tmp_path, f"{F1}:min"), model_at(0)
    for iteration, f1 in enumerate([0.5, 0.2, 0.7], start=1):
        set_to(model, iteration)
        keeper.checkpoint(iteration, model, {F1: f1})
    assert value_of(keeper.load_best_model(model)) == 2


def test_nothing_is_saved_on_the_runway(tmp_path: Path) -> None:
    keeper, model = checkpointer(tmp_path, checkpoint_runway=3), model_at(1)
    keeper.checkpoint(2, model, {F1: 0.9})
    assert files(tmp_path) == []
    assert not keeper.checkpoint_condition_met
    set_to(model, 5)
    assert value_of(keeper.load_best_model(model)) == 5
    keeper.checkpoint(3, model, {F1: 0.1})
    assert keeper.checkpoint_condition_met
    assert keeper.best_metric_dict == {F1: 0.1}


def test_further_metrics_keep_a_best_model_each(tmp_path: Path) -> None:
    keeper = checkpointer(tmp_path, checkpoint_task_metrics=[f"{F2}:min"])
    assert keeper.checkpoint_metric == {F1: "max"}
    assert keeper.checkpoint_task_metrics == {F2: "min", F1: "max"}
    model = model_at(0)
    for iteration, (f1, f2) in enumerate([(0.1, 0.1), (0.2, 0.2)], start=1):
        set_to(model, iteration)
        keeper.checkpoint(iteration, model, {F1: f1, F2: f2})
    model.load(tmp_path / "best_model_task_dataset_valid_f2.safetensors")
    assert value_of(model) == 1
    assert value_of(keeper.load_best_model(model)) == 2


@pytest.mark.parametrize("metric", [[f"{F1}:max", f"{F2}:max"], "task/dataset/valid/*:max"])
def test_the_mean_of_several_decides(tmp_path: Path, metric: Any) -> None:
    keeper, model = checkpointer(tmp_path, metric), model_at(0)
    for iteration, (f1, f2) in enumerate([(0.5, 0.5), (0.9, 0.2), (0.4, 0.8)], start=1):
        set_to(model, iteration)
        keeper.checkpoint(iteration, model, {F1: f1, F2: f2})
    assert value_of(keeper.load_best_model(model)) == 3


def test_checkpoints_stay_where_they_are_not_to_be_cleared(tmp_path: Path) -> None:
    keeper = checkpointer(tmp_path, checkpoint_clear=False)
    keeper.checkpoint(1, model_at(0), {F1: 0.5})
    keeper.clear()
    assert "checkpoint_1.safetensors" in files(tmp_path)


def test_only_its_own_checkpoints_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_7.safetensors").write_bytes(b"another run's")
    keeper = checkpointer(tmp_path)
    keeper.checkpoint(1, model_at(0), {F1: 0.5})
    keeper.clear()
    assert "checkpoint_7.safetensors" in files(tmp_path)


def test_a_metric_that_is_not_logged_is_an_error_naming_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(TaskloomError, match=f"'{F1}' is logged.*{F2}"):
        checkpointer(tmp_path).checkpoint(1, model_at(0), {F2: 0.5})
    assert files(tmp_path) == []


def test_two_metrics_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(TaskloomError, match="both be best_model_a_b_c_d_e"):
        checkpointer(tmp_path, "a_b/c/d/e:max", checkpoint_task_metrics=["a/b_c/d/e:max"])


def test_names_too_long_for_a_file_are_cut(tmp_path: Path) -> None:
    keys = [f"task_{i}/a_data_set_with_a_long_name/valid/accuracy" for i in range(9)]
    keeper = checkpointer(tmp_path, [f"{key}:max" for key in keys])
    keeper.checkpoint(1, model_at(4), dict.fromkeys(keys, 0.5))
    assert value_of(keeper.load_best_model(model_at(0))) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint_dir": None}, "checkpoint_dir"),
        ({"checkpoint_factor": 0}, "checkpoint_factor"),
        ({"checkpoint_runway": -1}, "checkpoint_runway"),
        ({"checkpoint_metric": f"{F1}-max"}, "metric:mode"),
        ({"checkpoint_metric": f"{F1}:mode"}, "metric mode"),
        ({"checkpoint_task_metrics": ["f1:max"]}, "metric:mode"),
    ],
)
def test_what_is_no_setting_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpointer("epochs", 1, **({"checkpoint_dir": str(tmp_path)} | settings))


def test_a_frequency_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskloomError, match="checkpoint freq"):
        Checkpointer("epochs", 0, checkpoint_dir=str(tmp_path))
