"""Every option of the trainer does what it says: one row for each, by its path in the settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from mtl_core import (
    DictDataLoader,
    FitListener,
    MultitaskClassifier,
    NonFiniteLossError,
    Progress,
    TaskloomError,
    Trainer,
    TrainerConfig,
    module_weights,
)

from ..shapes import SHAPES, shape_loaders, shape_task

SPLITS = ("train", "valid")


class Recorder(FitListener):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.steps: list[int] = []
        self.messages: list[str] = []

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)
        self.steps.append(progress.step)

    def on_log(self, message: str) -> None:
        self.messages.append(message)

    def series(self, key: str) -> list[float]:
        return [metrics[key] for metrics in self.metrics]


class Fitted:
    """A training of the two shape tasks, four batches each, with what it said and made."""

    def __init__(self, loaders: list[DictDataLoader] | None = None, **settings: Any) -> None:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))
        tasks = [shape_task(shape, trunk, nn.Linear(8, 2)) for shape in SHAPES]
        self.model = MultitaskClassifier(tasks, device="cpu")
        self.start = module_weights(self.model)
        self.heard = Recorder()
        self.trainer = Trainer(**({"seed": 1, "n_epochs": 2, "progress_bar": False} | settings))
        self.trainer.fit(self.model, loaders or shape_loaders(splits=SPLITS), self.heard)
        self.weights = module_weights(self.model)

    def moved(self, module: str) -> bool:
        return any(
            not torch.equal(self.start[key], tensor)
            for key, tensor in self.weights.items()
            if key.startswith(f"{module}/")
        )

    def same_as(self, other: Fitted) -> bool:
        return all(torch.equal(tensor, other.weights[key]) for key, tensor in self.weights.items())

    def rates(self) -> list[float]:
        return self.heard.series("model/all/train/lr")


def fit(path: str, value: Any, loaders: list[DictDataLoader] | None = None, **others: Any) -> Fitted:
    """Train with one option, given by its path, and others, by theirs with ``__`` for the dots."""
    settings: dict[str, Any] = {}
    given = {name.replace("__", "."): other for name, other in others.items()}
    for name, setting in (given | {path: value}).items():
        inner = settings
        *groups, last = name.split(".")
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = setting
    return Fitted(loaders, **settings)


EVERY_BATCH: dict[str, Any] = {
    "log_manager_config__counter_unit": "batches",
    "log_manager_config__evaluation_freq": 1,
}

# Two values of each option that lead to different weights, and what else must be set for it to count.
DIFFERENT: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "seed": (1, 2, {}),
    "n_epochs": (1, 2, {}),
    "lr": (0.01, 0.02, {}),
    "l2": (0.0, 0.1, {}),
    "grad_clip": (0.01, 1.0, {"optimizer": "sgd"}),
    "accumulate_batches": (1, 2, {}),
    "precision": ("float32", "bfloat16", {}),
    "ema_decay": (None, 0.9, {}),
    "class_prior_bias": (False, True, {}),
    "module_lrs": ({}, {"circle_head": 0.1}, {}),
    "frozen_modules": ([], ["base_mlp"], {}),
    "optimizer": ("adam", "adamw", {"l2": 0.1}),
    "optimizer_config.sgd_config.momentum": (0.9, 0.0, {"optimizer": "sgd"}),
    "optimizer_config.adam_config.amsgrad": (False, True, {"n_epochs": 6}),
    "optimizer_config.adam_config.betas": ([0.9, 0.999], [0.5, 0.9], {}),
    "optimizer_config.adam_config.eps": (1e-8, 1e-2, {}),
    "optimizer_config.adamax_config.betas": ([0.9, 0.999], [0.5, 0.9], {"optimizer": "adamax"}),
    "optimizer_config.adamax_config.eps": (1e-8, 1e-2, {"optimizer": "adamax"}),
    "batch_scheduler": ("shuffled", "sequential", {}),
    "balancing": ("sum", {"type": "fixed", "weights": {"circle_task": 0.1}}, {}),
}

# Learning rates of the four batches of two epochs of one task each, on top of ``lr`` 1.
RATES: dict[str, tuple[Any, list[float], dict[str, Any]]] = {
    "lr_scheduler": ("linear", [1, 0.75, 0.5, 0.25], {}),
    "lr_scheduler_config.warmup_steps": (2, [0.5, 1, 1, 1], {}),
    "lr_scheduler_config.warmup_unit": ("epochs", [0.5, 1, 1, 1], {"lr_scheduler_config__warmup_steps": 1}),
    "lr_scheduler_config.warmup_percentage": (0.5, [0.5, 1, 1, 1], {}),
    "lr_scheduler_config.min_lr": (0.6, [1, 0.75, 0.6, 0.6], {"lr_scheduler": "linear"}),
    "lr_scheduler_config.exponential_config.gamma": (
        0.5,
        [1, 0.5, 0.25, 0.125],
        {"lr_scheduler": "exponential"},
    ),
    "lr_scheduler_config.step_config.gamma": (
        0.5,
        [1, 1, 0.5, 0.5],
        {"lr_scheduler": "step", "lr_scheduler_config__step_config__step_size": 2},
    ),
    "lr_scheduler_config.step_config.step_size": (1, [1, 0.9, 0.81, 0.729], {"lr_scheduler": "step"}),
    "lr_scheduler_config.one_cycle_config.pct_start": (
        0.5,
        [0.04, 1, 0.500002, 4e-6],
        {"lr_scheduler": "one_cycle"},
    ),
    "lr_scheduler_config.one_cycle_config.div_factor": (
        2.0,
        [0.5, 1, 0.500025, 5e-5],
        {"lr_scheduler": "one_cycle", "lr_scheduler_config__one_cycle_config__pct_start": 0.5},
    ),
    "lr_scheduler_config.one_cycle_config.final_div_factor": (
        1.0,
        [0.04, 1, 0.52, 0.04],
        {"lr_scheduler": "one_cycle", "lr_scheduler_config__one_cycle_config__pct_start": 0.5},
    ),
    "lr_scheduler_config.plateau_config.metric": (
        "model/all/train/lr:min",
        [1, 1, 0.1, 0.1],
        {"lr_scheduler": "plateau", "lr_scheduler_config__plateau_config__patience": 1},
    ),
    "lr_scheduler_config.plateau_config.factor": (
        0.5,
        [1, 1, 0.5, 0.5],
        {
            "lr_scheduler": "plateau",
            "lr_scheduler_config__plateau_config__metric": "model/all/train/lr:min",
            "lr_scheduler_config__plateau_config__patience": 1,
        },
    ),
    "lr_scheduler_config.plateau_config.patience": (
        2,
        [1, 1, 1, 0.1],
        {
            "lr_scheduler": "plateau",
            "lr_scheduler_config__plateau_config__metric": "model/all/train/lr:max",
        },
    ),
    "lr_scheduler_config.plateau_config.threshold": (
        10.0,
        [1, 1, 0.1, 0.01],
        {
            "lr_scheduler": "plateau",
            "lr_scheduler_config__plateau_config__metric": "model/all/train/lr:min",
            "lr_scheduler_config__plateau_config__patience": 1,
        },
    ),
}

# Options with a test of their own below.
ALONE = {
    "train_split",
    "valid_split",
    "test_split",
    "progress_bar",
    "compile",
    "non_finite",
    "max_skipped",
    "log_manager_config.counter_unit",
    "log_manager_config.evaluation_freq",
    "checkpointing",
    "checkpointer_config.checkpoint_dir",
    "checkpointer_config.checkpoint_factor",
    "checkpointer_config.checkpoint_metric",
    "checkpointer_config.checkpoint_task_metrics",
    "checkpointer_config.checkpoint_runway",
    "checkpointer_config.checkpoint_clear",
    "logging",
    "log_writer",
    "log_writer_config.log_dir",
    "log_writer_config.run_name",
    "early_stopping",
    "early_stopping_config.metric",
    "early_stopping_config.patience",
    "early_stopping_config.min_delta",
    "early_stopping_config.per_task",
    "batch_scheduler_config.temperature",
    "batch_scheduler_config.final_exponent",
    "diagnosis",
    "diagnosis_config.times",
    "diagnosis_config.at_steps",
}


def option_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from option_paths(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_option_has_a_row() -> None:
    assert {*DIFFERENT, *RATES, *ALONE} == set(option_paths(TrainerConfig))


@pytest.mark.parametrize("path", DIFFERENT)
def test_another_value_leads_to_other_weights_and_the_same_to_the_same(path: str) -> None:
    first, second, others = DIFFERENT[path]
    trained = fit(path, first, **others)
    assert not trained.same_as(fit(path, second, **others))
    assert trained.same_as(fit(path, first, **others))


@pytest.mark.parametrize("path", RATES)
def test_the_learning_rate_of_each_batch(path: str) -> None:
    value, expected, others = RATES[path]
    loaders = shape_loaders(["circle"], batch_size=32)
    trained = fit(path, value, loaders, lr=1.0, **EVERY_BATCH, **others)
    assert trained.rates() == pytest.approx(expected)


def test_frozen_modules_keep_every_bit_buffers_included_and_others_train() -> None:
    trained = fit("frozen_modules", ["base_mlp"])
    assert not trained.moved("base_mlp")
    assert trained.moved("circle_head")
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    with pytest.raises(TaskloomError, match="frozen_modules: the model has no module 'trunk'"):
        fit("frozen_modules", ["trunk"])


def test_a_module_may_have_a_rate_of_its_own() -> None:
    trained = fit("module_lrs", {"base_mlp": 1e-30}, optimizer="sgd")
    assert torch.equal(trained.start["base_mlp/0.weight"], trained.weights["base_mlp/0.weight"])
    assert trained.moved("circle_head")
    with pytest.raises(TaskloomError, match="module_lrs: the model has no module 'trunk'"):
        fit("module_lrs", {"trunk": 0.1})


def test_float16_needs_a_gpu_and_auto_is_float32_without_one() -> None:
    with pytest.raises(TaskloomError, match="float16"):
        fit("precision", "float16")
    assert fit("precision", "auto").same_as(fit("precision", "float32"))


def test_class_priors_are_told() -> None:
    said = fit("class_prior_bias", True).heard.messages
    assert [line.partition(" starts at ")[0] for line in said] == [
        f"task '{shape}_task': module '{shape}_head'" for shape in SHAPES
    ]


@pytest.mark.parametrize("path", ["train_split", "valid_split", "test_split"])
def test_splits_have_the_names_that_they_are_given(path: str) -> None:
    splits = ("train", "valid", "test")
    mine = path.removesuffix("_split")
    renamed = tuple("mine" if split == mine else split for split in splits)
    keys = set(fit(path, "mine", shape_loaders(splits=renamed)).heard.metrics[0])
    usual = set(fit("n_epochs", 1, shape_loaders(splits=splits)).heard.metrics[0])
    assert keys == {key.replace(f"/{mine}/", "/mine/") for key in usual}


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar(shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    fit("progress_bar", shown)
    assert ("16/16" in capsys.readouterr().err) == shown


def broken_loaders() -> list[DictDataLoader]:
    loaders = shape_loaders(["circle"], splits=SPLITS)
    loaders[0].dataset.X_dict["circle_data"][20] = math.nan
    return loaders


def test_non_finite_batches_fail_or_are_skipped_counted_and_told() -> None:
    with pytest.raises(NonFiniteLossError, match=r"'circle_task' is nan on batch 1 .*epoch 0, step 1"):
        fit("non_finite", "fail", broken_loaders(), batch_scheduler="sequential")
    skipping = fit("non_finite", "skip", broken_loaders(), batch_scheduler="sequential")
    assert all(bool(tensor.isfinite().all()) for tensor in skipping.weights.values())
    assert skipping.moved("circle_head")
    assert skipping.heard.series("circle_task/circleDataset/train/skipped") == [1, 2]
    assert skipping.heard.series("model/all/train/skipped") == [1, 2]
    assert len(skipping.heard.messages) == 2


def test_max_skipped() -> None:
    loaders = shape_loaders(["circle"])
    loaders[0].dataset.X_dict["circle_data"][16:] = math.nan
    assert fit("max_skipped", 3, loaders, non_finite="skip", batch_scheduler="sequential").heard.steps == [
        4,
        8,
    ]
    with pytest.raises(NonFiniteLossError, match="batch 3"):
        fit("max_skipped", 2, loaders, non_finite="skip", batch_scheduler="sequential")


@pytest.mark.parametrize(
    ("unit", "freq", "steps"),
    [("batches", 6, [6, 12, 16]), ("epochs", 0.75, [6, 12, 16]), ("points", 100, [7, 13, 16])],
)
@pytest.mark.parametrize("path", ["log_manager_config.counter_unit", "log_manager_config.evaluation_freq"])
def test_evaluations_come_every_so_many_units(path: str, unit: str, freq: float, steps: list[int]) -> None:
    both = {"counter_unit": unit, "evaluation_freq": freq}
    (other,) = (f"log_manager_config__{name}" for name in both if not path.endswith(name))
    trained = fit(path, both[path.rpartition(".")[2]], **{other: both[other.rpartition("__")[2]]})
    assert trained.heard.steps == steps


def checkpoints(
    folder: Path, path: str = "checkpointing", value: Any = True, **others: Any
) -> tuple[Fitted, list[str]]:
    given = {
        "checkpointing": True,
        "checkpointer_config__checkpoint_dir": str(folder),
        "n_epochs": 4,
    } | others
    given.pop(path.replace(".", "__"), None)
    trained = fit(path, value, **given)
    return trained, sorted(file.name for file in folder.rglob("*.safetensors"))


BEST = "best_model_model_all_train_loss.safetensors"


def test_checkpointing_ends_with_the_best_of_the_metric(tmp_path: Path) -> None:
    trained, names = checkpoints(
        tmp_path / "made", "checkpointer_config.checkpoint_dir", str(tmp_path / "made")
    )
    assert names == [BEST]
    losses = trained.heard.series("model/all/train/loss")
    assert trained.trainer.checkpointer is not None
    assert trained.trainer.checkpointer.best_metric_dict == {"model/all/train/loss": min(losses)}
    worst, _ = checkpoints(tmp_path, "checkpointer_config.checkpoint_metric", "model/all/train/loss:max")
    first = fit("n_epochs", 1)
    assert max(losses) == losses[0]
    assert worst.same_as(first)
    assert not trained.same_as(first)
    assert fit("checkpointing", False).trainer.checkpointer is None


def test_checkpoints_are_kept_from_the_runway_on_every_so_many_evaluations(tmp_path: Path) -> None:
    keep = {"checkpointer_config__checkpoint_clear": False}
    _, names = checkpoints(tmp_path / "all", "checkpointer_config.checkpoint_clear", False)
    assert names == [BEST, *(f"checkpoint_{epoch}.0.safetensors" for epoch in (1, 2, 3, 4))]
    _, names = checkpoints(tmp_path / "factor", "checkpointer_config.checkpoint_factor", 2, **keep)
    assert names == [BEST, "checkpoint_2.0.safetensors", "checkpoint_4.0.safetensors"]
    _, names = checkpoints(tmp_path / "runway", "checkpointer_config.checkpoint_runway", 3, **keep)
    assert names == [BEST, "checkpoint_3.0.safetensors", "checkpoint_4.0.safetensors"]


def test_the_best_by_further_metrics_is_kept_too(tmp_path: Path) -> None:
    path = "checkpointer_config.checkpoint_task_metrics"
    _, names = checkpoints(tmp_path, path, ["circle_task/circleDataset/valid/accuracy:max"])
    assert names == ["best_model_circle_task_circleDataset_valid_accuracy.safetensors", BEST]


def test_a_log_is_written_as_json(tmp_path: Path) -> None:
    folder = {"log_writer_config__log_dir": str(tmp_path), "log_writer_config__run_name": "r"}
    trained = fit("log_writer", "json", logging=True, **folder)
    log = json.loads((tmp_path / "r" / "log.json").read_text())
    assert set(log) == set(trained.heard.metrics[0])
    assert log["model/all/valid/loss"] == [
        [points, pytest.approx(loss)]
        for points, loss in zip((128, 256), trained.heard.series("model/all/valid/loss"), strict=True)
    ]
    named_by_time = fit("log_writer_config.log_dir", str(tmp_path / "other"), logging=True, log_writer="json")
    assert named_by_time.trainer.log_writer is not None
    assert (Path(named_by_time.trainer.log_writer.log_dir) / "log.json").exists()
    assert fit("logging", False).trainer.log_writer is None


def test_a_log_is_written_for_tensorboard(tmp_path: Path) -> None:
    fit("log_writer", "tensorboard", logging=True, log_writer_config__log_dir=str(tmp_path))
    assert len(list(tmp_path.rglob("*tfevents*"))) == 1


def test_a_log_is_there_after_a_failure_too(tmp_path: Path) -> None:
    loaders = shape_loaders(["circle"])
    given = {"logging": True, "log_writer": "json", "log_writer_config__log_dir": str(tmp_path)}
    loaders[0].dataset.X_dict["circle_data"][40] = math.nan
    with pytest.raises(NonFiniteLossError):
        fit(
            "log_writer_config.run_name",
            "failed",
            loaders,
            **given,
            **EVERY_BATCH,
            batch_scheduler="sequential",
        )
    log = json.loads((tmp_path / "failed" / "log.json").read_text())
    assert [step for step, _ in log["model/all/train/loss"]] == [16, 32]


def stopping(path: str, value: Any, **others: Any) -> Fitted:
    prefix = "early_stopping_config"
    given = {"early_stopping": True, f"{prefix}__metric": "model/all/train/lr:max", f"{prefix}__patience": 2}
    given = given | {"n_epochs": 8} | {f"{prefix}__{name}": other for name, other in others.items()}
    given.pop(path.replace(".", "__"), None)
    return fit(path, value, **given)


def test_early_stopping_by_metric_and_patience() -> None:
    assert len(stopping("early_stopping", False).heard.metrics) == 8
    assert len(stopping("early_stopping", True).heard.metrics) == 3
    assert len(stopping("early_stopping_config.patience", 4).heard.metrics) == 5
    trained = stopping("early_stopping_config.metric", "model/all/train/loss:max")
    losses = trained.heard.series("model/all/train/loss")
    assert losses.index(max(losses)) == len(losses) - 3
    few = stopping("early_stopping_config.min_delta", 100.0, metric="model/all/train/loss:min")
    assert len(few.heard.metrics) == 3
    assert (
        len(stopping("early_stopping_config.min_delta", 0.0, metric="model/all/train/loss:min").heard.metrics)
        > 3
    )


def test_early_stopping_by_task() -> None:
    trained = stopping("early_stopping_config.per_task", True, metric="*/*/valid/loss:max", patience=1)
    assert any("has peaked" in line for line in trained.heard.messages)


def comparisons(heard: Recorder) -> list[int]:
    """The steps before which the gradients of the two tasks were compared."""
    key = "circle_task/all/train/gradient_cosine:square_task"
    return [step for step, metrics in zip(heard.steps, heard.metrics, strict=True) if key in metrics]


def test_diagnosis_changes_nothing_of_the_training() -> None:
    without, with_it = fit("diagnosis", False), fit("diagnosis", True)
    assert with_it.same_as(without)
    assert comparisons(without.heard) == []
    assert without.trainer.affinities == {}
    assert set(with_it.trainer.affinities) == {("circle_task", "square_task")}


@pytest.mark.parametrize(("times", "steps"), [(1, [0]), (4, [0, 4, 8, 12]), (1000, list(range(16)))])
def test_diagnosis_times(times: int, steps: list[int]) -> None:
    assert comparisons(fit("diagnosis_config.times", times, diagnosis=True).heard) == steps


def test_diagnosis_at_steps() -> None:
    trained = fit("diagnosis_config.at_steps", [7, 2, 99], diagnosis=True)
    assert comparisons(trained.heard) == [2, 7]


@pytest.mark.parametrize(
    ("path", "by_size", "alike", "schedule"),
    [
        ("batch_scheduler_config.temperature", 1.0, 1e6, "proportional"),
        ("batch_scheduler_config.final_exponent", 1.0, 0.0, "annealed"),
    ],
)
def test_settings_of_schedules_that_draw(path: str, by_size: float, alike: float, schedule: str) -> None:
    def points(value: float) -> list[int]:
        loaders = shape_loaders(["circle"], batch_size=4) + shape_loaders(["square"], batch_size=32)
        trained = fit(path, value, loaders, batch_scheduler=schedule, n_epochs=4)
        return [trained.trainer.log_manager.point_total]

    # All batches of the one are small and of the other large: the more alike both are drawn, the more examples come.
    assert points(by_size) < points(alike)
