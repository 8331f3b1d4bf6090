from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    FitListener,
    MultitaskClassifier,
    NonFiniteLossError,
    Operation,
    Progress,
    ShuffledScheduler,
    Task,
    TaskloomError,
    Trainer,
    module_weights,
)
from mtl_core.losses import LOSSES
from mtl_core.training.optimizers import SGD

from ..shapes import SHAPES, shape_data, shape_loaders, shape_task


def model_from(seed: int = 0, dropout: float = 0.0) -> MultitaskClassifier:
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 4), nn.ReLU())
    return MultitaskClassifier([shape_task(shape, trunk) for shape in SHAPES], device="cpu")


def trained(
    seed: int | None, *, loaders: list[DictDataLoader] | None = None, **settings: Any
) -> dict[str, torch.Tensor]:
    model = model_from(dropout=0.2)
    loaders = loaders or shape_loaders(shuffle=True)
    Trainer(seed=seed, progress_bar=False, **({"n_epochs": 2} | settings)).fit(model, loaders)
    return module_weights(model)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


class Recorder(FitListener):
    def __init__(self) -> None:
        self.batches: list[Progress] = []
        self.metrics: list[tuple[Progress, dict[str, float]]] = []

    def on_batch(self, progress: Progress) -> None:
        self.batches.append(progress)

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.metrics.append((progress, metrics))


def fit(model: MultitaskClassifier, loaders: list[DictDataLoader], **settings: Any) -> Recorder:
    recorder = Recorder()
    Trainer(progress_bar=False, **settings).fit(model, loaders, recorder)
    return recorder


def test_training_learns_every_task() -> None:
    model, loaders = model_from(), shape_loaders()
    losses = [
        metrics["model/all/train/loss"]
        for _, metrics in fit(model, loaders, n_epochs=80, lr=0.02, seed=1).metrics
    ]
    assert losses[-1] < losses[0] / 2
    assert min(model.score(loaders).values()) > 0.8
    assert not model.training


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others() -> None:
    assert same(trained(5), trained(5))
    assert not same(trained(5), trained(6))


def test_the_seed_holds_whatever_state_the_generator_is_in_and_leaves_it_alone() -> None:
    first = trained(5)
    model = model_from(dropout=0.2)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    Trainer(seed=5, n_epochs=2, progress_bar=False).fit(model, shape_loaders(shuffle=True))
    assert same(first, module_weights(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_the_callers_generator_decides() -> None:
    assert same(trained(None), trained(None))


def test_progress_counts_epochs_batches_and_examples() -> None:
    batches = fit(model_from(), shape_loaders(), n_epochs=2).batches
    assert [p.step for p in batches] == list(range(1, 17))
    assert [p.epoch for p in batches] == [0] * 7 + [1] * 8 + [2]
    assert batches[-1] == Progress(epoch=2, n_epochs=2, step=16, n_steps=16, points=256)


def test_metrics_are_losses_learning_rate_and_validation_scores_by_key() -> None:
    recorder = fit(model_from(), shape_loaders(splits=("train", "valid", "test")), n_epochs=2, lr=0.03)
    assert [progress.epoch for progress, _ in recorder.metrics] == [1, 2]
    for _, metrics in recorder.metrics:
        assert sorted(metrics) == sorted(
            [
                *(f"{s}_task/{s}Dataset/train/loss" for s in SHAPES),
                "model/all/train/loss",
                "model/all/train/lr",
                *(f"{s}_task/{s}Dataset/valid/{metric}" for s in SHAPES for metric in ("accuracy", "loss")),
                "model/all/valid/loss",
            ]
        )
        assert metrics["model/all/train/lr"] == 0.03
        mean = sum(metrics[f"{s}_task/{s}Dataset/train/loss"] for s in SHAPES) / 2
        assert metrics["model/all/train/loss"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("unit", "freq", "steps"),
    [("batches", 3, [3, 6, 8]), ("epochs", 0.5, [4, 8]), ("points", 40, [3, 5, 8]), ("epochs", 2, [8])],
)
def test_evaluations_come_at_the_frequency_asked_for_and_at_the_end(
    unit: str, freq: float, steps: list[int]
) -> None:
    config = {"counter_unit": unit, "evaluation_freq": freq}
    recorder = fit(model_from(), shape_loaders(), n_epochs=1, log_manager_config=config)
    assert [progress.step for progress, _ in recorder.metrics] == steps


def test_a_batch_in_which_a_task_has_no_label_trains_the_others() -> None:
    data = shape_data("circle")
    points, labels = data.X_dict["circle_data"], data.Y_dict["circle_task"]
    both = DictDataset(
        "both",
        "train",
        {"circle_data": points, "square_data": points},
        {"circle_task": torch.where(torch.arange(64) < 16, -1, labels), "square_task": torch.full((64,), -1)},
    )
    model = model_from()
    before = module_weights(model)
    recorder = fit(model, [DictDataLoader(both, batch_size=16)], n_epochs=1, batch_scheduler="sequential")
    after = module_weights(model)
    assert torch.equal(before["square_head/weight"], after["square_head/weight"])
    assert not torch.equal(before["circle_head/weight"], after["circle_head/weight"])
    assert set(recorder.metrics[0][1]) == {
        "circle_task/both/train/loss",
        "model/all/train/loss",
        "model/all/train/lr",
    }
    assert recorder.batches[-1].points == 64


def test_a_split_without_any_label_changes_nothing() -> None:
    data = shape_data("circle")
    data.Y_dict["circle_task"].fill_(-1)
    model = model_from()
    before = module_weights(model)
    recorder = fit(model, [DictDataLoader(data, batch_size=16)])
    assert same(before, module_weights(model))
    assert list(recorder.metrics[0][1]) == ["model/all/train/lr"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_says_where(value: float) -> None:
    loaders = shape_loaders(["circle"])
    loaders[0].dataset.X_dict["circle_data"][20] = value
    model = model_from()
    with pytest.raises(
        NonFiniteLossError, match=r"'circle_task' is nan.*'circleDataset' at epoch 0, step 1"
    ) as caught:
        fit(model, loaders, n_epochs=1)
    assert (caught.value.task_name, caught.value.dataset, caught.value.step) == (
        "circle_task",
        "circleDataset",
        1,
    )
    assert all(bool(tensor.isfinite().all()) for tensor in module_weights(model).values())


def test_a_listener_can_end_the_training() -> None:
    class StopError(Exception):
        pass

    class Stopper(FitListener):
        def on_batch(self, progress: Progress) -> None:
            if progress.step == 3:
                raise StopError

    with pytest.raises(StopError):
        Trainer(progress_bar=False).fit(model_from(), shape_loaders(), Stopper())


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    settings: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 1.0,
        "optimizer_config": {"sgd_config": {"momentum": 0}},
    }
    model = model_from()
    before = module_weights(model)
    fit(model, shape_loaders(["circle"], batch_size=64), n_epochs=1, grad_clip=1e-3, **settings)
    after = module_weights(model)
    moved = torch.cat([(after[key] - before[key]).flatten() for key in before]).norm()
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adamax"])
def test_every_optimizer_moves_the_weights_its_own_way(optimizer: str) -> None:
    weights = trained(1, optimizer=optimizer, l2=0.1)
    others = [
        trained(1, optimizer=name, l2=0.1) for name in ("sgd", "adam", "adamw", "adamax") if name != optimizer
    ]
    assert not any(same(weights, other) for other in others)
    assert not same(weights, trained(1, optimizer=optimizer))


def test_weights_that_want_no_gradient_stay_as_they_are() -> None:
    model = model_from()
    model.module_pool["base_mlp"].requires_grad_(False)
    before = module_weights(model)
    fit(model, shape_loaders(), n_epochs=1)
    after = module_weights(model)
    assert torch.equal(before["base_mlp/0.weight"], after["base_mlp/0.weight"])
    assert not torch.equal(before["circle_head/weight"], after["circle_head/weight"])


def test_a_task_without_parameters_of_its_own_is_trained_along_with_the_others() -> None:
    idle = Task("idle", {"same": nn.Identity()}, [Operation("same", [("_input_", "x")])])
    model = MultitaskClassifier([idle, shape_task("circle")], device="cpu")
    loader = DictDataLoader(
        DictDataset("d", "train", {"x": torch.randn(8, 2)}, {"idle": torch.ones(8).long()})
    )
    recorder = fit(model, [loader, *shape_loaders(["circle"])])
    assert "idle/d/train/loss" in recorder.metrics[0][1]
    with pytest.raises(TaskloomError, match="no parameter to train"):
        fit(MultitaskClassifier([idle], device="cpu"), [loader])


def test_splits_go_by_the_names_in_the_settings() -> None:
    loaders = shape_loaders(["circle"], splits=("a", "b"))
    recorder = fit(model_from(), loaders, train_split="a", valid_split="b")
    assert "circle_task/circleDataset/b/accuracy" in recorder.metrics[0][1]
    with pytest.raises(TaskloomError, match="has split 'a', which is none of"):
        fit(model_from(), loaders)
    with pytest.raises(TaskloomError, match="no batch of the train split"):
        fit(model_from(), shape_loaders(["circle"], splits=("valid",)))


@pytest.mark.parametrize(
    "settings",
    [
        {"n_epochs": 0},
        {"n_epochs": True},
        {"n_epochs": "3"},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": False},
        {"l2": -1.0},
        {"grad_clip": -1},
        {"optimizer": "lion"},
        {"optimizer_config": {"sgd_config": {"momentum": 1.0}}},
        {"optimizer_config": {"adam_config": {"betas": [0.9]}}},
        {"batch_scheduler": "none"},
        {"epochs": 3},
        {"lr_scheduler_config": {"warmup_steps": 1e300}},
        {"log_manager_config": {"evaluation_freq": 0}},
        {"progress_bar": 1},
        {"seed": -1},
    ],
)
def test_settings_that_are_unknown_or_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Trainer(**settings)


def test_the_trainer_has_a_name() -> None:
    assert Trainer().name == "Trainer"
    assert Trainer("mine").name == "mine"


def test_what_a_training_was_made_of_stays_with_the_trainer() -> None:
    trainer = Trainer(
        progress_bar=False,
        n_epochs=2,
        optimizer="sgd",
        lr_scheduler_config={"warmup_steps": 0.5, "warmup_unit": "epochs"},
    )
    recorder = Recorder()
    trainer.fit(model_from(), shape_loaders(splits=("train", "valid")), recorder)
    assert isinstance(trainer.optimizer, SGD)
    assert (trainer.n_batches_per_epoch, trainer.warmup_steps) == (8, 4)
    assert (trainer.checkpointer, trainer.log_writer) == (None, None)
    assert trainer.log_manager.batch_total == 16
    assert trainer.lr_scheduler.rate(0) == trainer.config.lr / 4
    assert isinstance(trainer.batch_scheduler, ShuffledScheduler)
    assert trainer.metrics == recorder.metrics[-1][1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adamax"])
def test_a_training_is_resumed_from_files_where_it_stopped(optimizer: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": optimizer, "lr": 0.05, "batch_scheduler": "sequential"}
    settings |= {"module_lrs": {"base_mlp": 0.01}, "frozen_modules": ["square_head"], "n_epochs": 1}
    whole = model_from()
    Trainer(progress_bar=False, **(settings | {"n_epochs": 2})).fit(whole, shape_loaders())

    first, trainer = model_from(), Trainer(progress_bar=False, **settings)
    trainer.fit(first, shape_loaders())
    trainer.save(tmp_path / "new" / "trainer.safetensors")
    first.save(tmp_path / "model.safetensors")
    second, resumed = model_from(seed=1), Trainer("resumed")
    second.load(tmp_path / "model.safetensors")
    resumed.load(tmp_path / "new" / "trainer.safetensors", second)
    assert resumed.config == trainer.config
    resumed.fit(second, shape_loaders())
    assert same(module_weights(whole), module_weights(second))
    resumed.fit(second, shape_loaders())
    assert resumed.name == "resumed"


def test_a_trainer_is_not_loaded_for_another_model(tmp_path: Path) -> None:
    trainer, path = Trainer(progress_bar=False, lr=0.5), tmp_path / "trainer.safetensors"
    trainer.fit(model_from(), shape_loaders())
    trainer.save(path)
    other = Trainer()
    with pytest.raises(TaskloomError, match="does not fit the model"):
        other.load(path, MultitaskClassifier([shape_task("circle")], device="cpu"))
    assert other.config.lr == 0.01
    with pytest.raises(FileNotFoundError):
        other.load(tmp_path / "none", model_from())
    other.load(path)
    assert (other.config.lr, other.optimizer) == (0.5, None)


def test_a_model_config_is_refused_with_where_it_belongs() -> None:
    with pytest.raises(ValidationError, match="give device and dataparallel to MultitaskClassifier"):
        Trainer(model_config={"device": -1})


def test_the_running_loss_of_a_summed_loss_is_that_of_one_example() -> None:
    logged: list[float] = []
    for spec in ("cross_entropy", {"type": "cross_entropy", "reduction": "sum"}):
        torch.manual_seed(0)
        model = MultitaskClassifier([shape_task("circle", loss_func=LOSSES.build(spec))], device="cpu")
        heard = fit(model, shape_loaders(["circle"]), lr=1e-30, seed=1)
        logged.append(heard.metrics[-1][1]["model/all/train/loss"])
    assert logged[0] == pytest.approx(logged[1])
