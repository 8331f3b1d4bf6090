"""The verdict on models whose tasks are known to help one another, or to fight."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
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
    TaskloomError,
    Trainer,
    TrainerConfig,
    module_weights,
)
from mtl_core.sharing import Bootstrap, SharingStudy, SharingVerdict, judge_sharing
from mtl_core.sharing.twins import build_twin, families, twin_config
from mtl_core.slicing import convert_to_slice_tasks

QUICK = Bootstrap(resamples=200)


def task(name: str, trunk: nn.Module, field: str = "x", head: nn.Module | None = None) -> Task:
    return Task(
        name,
        {"trunk": trunk, f"{name}_head": head or nn.Linear(4, 2)},
        [Operation("trunk", [("_input_", field)]), Operation(f"{name}_head", ["trunk"])],
    )


def loader(split: str, labels: dict[str, torch.Tensor], x: torch.Tensor, name: str = "d") -> DictDataLoader:
    return DictDataLoader(DictDataset(name, split, {"x": x}, labels), batch_size=32, shuffle=split == "train")


def fighting() -> tuple[MultitaskClassifier, list[DictDataLoader]]:
    """Two tasks of opposite labels that share everything but what tells them apart, and a third like the first."""
    torch.manual_seed(3)
    trunk = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    names = ("a", "b", "c")
    tasks = [
        Task(
            name,
            {"trunk": trunk, "out": nn.Identity()},
            [Operation("trunk", [("_input_", "x")]), Operation("out", ["trunk"])],
        )
        for name in names
    ]
    loaders: list[DictDataLoader] = []
    for split, n in (("train", 256), ("test", 300)):
        x = torch.randn(n, 2)
        above = (x[:, 0] > 0).long()
        loaders.append(loader(split, {"a": above, "b": 1 - above, "c": above}, x))
    return MultitaskClassifier(tasks, device="cpu"), loaders


def helping() -> tuple[MultitaskClassifier, list[DictDataLoader]]:
    """A task with few labels, of the same features as one with many."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(30, 4), nn.Tanh())
    direction = torch.randn(30)
    loaders: list[DictDataLoader] = []
    for split, n, few in (("train", 600, 20), ("test", 400, 400)):
        x = torch.randn(n, 30)
        above = (x @ direction > 0).long()
        rare = torch.where(torch.arange(n) < few, 1 - above, -1)
        loaders.append(loader(split, {"much": above, "rare": rare}, x))
    return MultitaskClassifier([task("much", trunk), task("rare", trunk)], device="cpu"), loaders


SETTINGS: dict[str, Any] = {"seed": 1, "n_epochs": 8, "lr": 0.02, "progress_bar": False}


def test_tasks_that_fight_lose_and_are_named_and_parted() -> None:
    model, loaders = fighting()
    verdict = judge_sharing(model, loaders, QUICK, **SETTINGS)
    (b,) = [of for of in verdict.tasks if of.task == "b"]
    assert b.word == "loses"
    assert set(b.hurt_by) == {"a", "c"}
    (row,) = b.comparisons
    assert (row.dataset, row.split, row.metric, row.n) == ("d", "test", "accuracy", 300)
    assert row.single > 0.9
    assert row.high is not None
    assert row.gain == pytest.approx(row.shared - row.single)
    assert row.gain < row.high < 0
    assert verdict.groups == [["a", "c"], ["b"]]
    pairs = {pair.tasks: pair.value for pair in verdict.affinities}
    assert pairs["a", "c"] == pytest.approx(1)
    assert pairs["a", "b"] < -0.5
    assert verdict.summary.startswith("Sharing loses for ")
    assert "these groups: 'a', 'c'; 'b'" in verdict.summary


def test_a_task_with_few_labels_gains_from_one_that_it_is_like() -> None:
    model, loaders = helping()
    verdict = judge_sharing(model, loaders, QUICK, **SETTINGS)
    words = {of.task: of.word for of in verdict.tasks}
    assert words["rare"] == "gains"
    assert words["much"] != "loses"
    assert verdict.groups == [["much", "rare"]]
    assert verdict.unjudged == {}
    assert "gains for 'rare'" in verdict.summary


def test_a_verdict_survives_json() -> None:
    model, loaders = fighting()
    verdict = judge_sharing(model, loaders, QUICK, **SETTINGS | {"n_epochs": 1})
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert json.loads(text)["summary"] == verdict.summary
    assert SharingVerdict.from_json(json.loads(text)) == verdict


def test_the_shared_model_is_trained_as_without_a_verdict() -> None:
    settings = SETTINGS | {"n_epochs": 2}
    model, loaders = fighting()
    judge_sharing(model, loaders, QUICK, **settings)
    alone, _ = fighting()
    Trainer(**settings).fit(alone, loaders)
    trained, expected = module_weights(model), module_weights(alone)
    assert all(torch.equal(trained[key], expected[key]) for key in expected)


class Heard(FitListener):
    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[Progress] = []
        self.keys: set[str] = set()
        self.lines: list[str] = []
        self.stop_at = stop_at

    def on_batch(self, progress: Progress) -> None:
        self.steps.append(progress)
        if self.stop_at is not None and progress.step >= self.stop_at:
            raise KeyboardInterrupt

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.keys.update(metrics)

    def on_log(self, message: str) -> None:
        self.lines.append(message)


def test_all_trainings_are_heard_as_one() -> None:
    model, loaders = fighting()
    heard = Heard()
    judge_sharing(model, loaders, QUICK, heard, **SETTINGS | {"n_epochs": 2})
    steps = [progress.step for progress in heard.steps]
    assert steps == list(range(1, 4 * 2 * 8 + 1))
    assert {progress.n_steps for progress in heard.steps} == {len(steps)}
    points = [progress.points for progress in heard.steps]
    assert points == sorted(points)
    assert points[-1] == 4 * 2 * 256
    assert "b/d/train/twin:loss" in heard.keys
    assert {key for key in heard.keys if "twin" in key and "/all/" in key} == set()
    assert any(line.startswith("twin of task 'c': ") for line in heard.lines)


def test_it_ends_where_the_listener_says_so_while_a_twin_trains() -> None:
    model, loaders = fighting()
    heard = Heard(stop_at=20)
    with pytest.raises(KeyboardInterrupt):
        judge_sharing(model, loaders, QUICK, heard, **SETTINGS | {"n_epochs": 2})
    assert heard.steps[-1].step == 20


def test_a_twin_begins_with_the_weights_that_the_shared_model_began_with() -> None:
    model, loaders = helping()
    initial = module_weights(model)
    Trainer(**SETTINGS | {"n_epochs": 1}).fit(model, loaders)
    trained = module_weights(model)
    twin = build_twin(model, ["rare"], initial)
    weights = module_weights(twin)
    assert weights.keys() == {key for key in initial if not key.startswith("much_head")}
    assert all(torch.equal(weights[key], initial[key]) for key in weights)
    assert not all(torch.equal(weights[key], trained[key]) for key in weights)
    with torch.no_grad():
        twin.module_pool["rare_head"].weight.fill_(7)  # type: ignore[union-attr]
    assert torch.equal(module_weights(model)["rare_head/weight"], trained["rare_head/weight"])


def test_settings_that_name_other_tasks_or_modules_suit_the_twin(tmp_path: Any) -> None:
    model, loaders = helping()
    x = torch.randn(40, 30)
    loaders.append(loader("valid", {"rare": (x[:, 0] > 0).long(), "much": (x[:, 0] > 0).long()}, x))
    config = TrainerConfig(
        frozen_modules=["trunk", "much_head"],
        module_lrs={"much_head": 0.1, "rare_head": 0.2},
        balancing={"type": "fixed", "weights": {"much": 3}},
        early_stopping=True,
        early_stopping_config={
            "metric": ["much/d/valid/accuracy:max", "*/d/valid/accuracy:max"],
            "per_task": True,
        },  # type: ignore[arg-type]
        checkpointing=True,
        checkpointer_config={"checkpoint_metric": "much/d/valid/loss:min", "checkpoint_dir": str(tmp_path)},  # type: ignore[arg-type]
        logging=True,
        progress_bar=False,
        n_epochs=2,
    )
    twin = build_twin(model, ["rare"], module_weights(model))
    own = twin_config(config, twin, loaders, str(tmp_path / "twin"))
    assert own.frozen_modules == ["trunk"]
    assert own.module_lrs == {"rare_head": 0.2}
    assert own.early_stopping_config.metric == ["*/d/valid/accuracy:max"]
    assert own.checkpointer_config.checkpoint_metric == ["model/all/train/loss:min"]
    assert (own.early_stopping, own.checkpointing, own.logging) == (True, True, False)
    assert own.n_epochs == 2
    before = module_weights(twin)
    Trainer(**own.model_dump()).fit(twin, loaders)
    after = module_weights(twin)
    assert torch.equal(before["trunk/0.weight"], after["trunk/0.weight"])
    assert not torch.equal(before["rare_head/weight"], after["rare_head/weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]


def test_without_a_validation_split_a_twin_does_not_stop_early(tmp_path: Any) -> None:
    model, loaders = helping()
    x = torch.randn(40, 30)
    config = TrainerConfig(early_stopping=True, lr_scheduler="plateau", progress_bar=False)
    twin = build_twin(model, ["rare"], module_weights(model))
    own = twin_config(config, twin, loaders, str(tmp_path))
    assert not own.early_stopping
    Trainer(**own.model_dump()).fit(twin, loaders)
    loaders.append(loader("valid", {"rare": (x[:, 0] > 0).long()}, x))
    assert twin_config(config, twin, loaders, str(tmp_path)).early_stopping


def test_a_sliced_task_is_judged_with_the_tasks_of_its_slices() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
    tasks = [*convert_to_slice_tasks(task("s", trunk), ["left"]), task("t", trunk)]
    assert families([t.name for t in tasks])["s"] == [
        *("s_slice:left_ind", "s_slice:base_ind", "s_slice:left_pred", "s_slice:base_pred"),
        "s",
    ]
    loaders: list[DictDataLoader] = []
    for split in ("train", "valid"):
        x = torch.randn(96, 2)
        y, left = (x[:, 1] > 0).long(), (x[:, 0] < 0).long()
        ones = torch.ones_like(left)
        labels = {
            "s_slice:left_ind": left,
            "s_slice:base_ind": ones,
            "s_slice:left_pred": torch.where(left == 1, y, -1),
            "s_slice:base_pred": y,
            "s": y,
            "t": y,
        }
        loaders.append(loader(split, labels, x))
    model = MultitaskClassifier(tasks, device="cpu")
    verdict = judge_sharing(model, loaders, QUICK, **SETTINGS | {"n_epochs": 1})
    assert [of.task for of in verdict.tasks] == ["s", "t"]
    assert [pair.tasks for pair in verdict.affinities] == [("s", "t")]
    assert {row.split for of in verdict.tasks for row in of.comparisons} == {"valid"}


def test_tasks_that_cannot_be_judged_are_told_with_the_reason() -> None:
    model, loaders = helping()
    for of in loaders:
        if of.dataset.split == "test":
            of.dataset.Y_dict["rare"].fill_(-1)
    verdict = judge_sharing(model, loaders, QUICK, **SETTINGS | {"n_epochs": 1})
    assert [of.task for of in verdict.tasks] == ["much"]
    assert "no label in the splits 'test' and 'valid'" in verdict.unjudged["rare"]
    assert "Not judged: 'rare'." in verdict.summary
    frozen = TrainerConfig(frozen_modules=["trunk", "rare_head"])
    model, loaders = helping()
    study = SharingStudy(model, frozen, loaders, QUICK)
    Trainer(**study.config.model_dump() | {"progress_bar": False}).fit(model, loaders, study.listener)
    assert "stay as they are" in study.verdict({}).unjudged["rare"]


class Fragile(nn.Identity):
    """Breaks when it is copied, as a twin's modules are."""

    def __deepcopy__(self, memo: Any) -> nn.Module:
        return Broken()


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * math.nan


def test_a_twin_that_cannot_be_trained_costs_no_other_task_its_verdict() -> None:
    model, loaders = helping()
    model.replace_module("much_head", nn.Sequential(nn.Linear(4, 2), Fragile()))
    heard = Heard()
    verdict = judge_sharing(model, loaders, QUICK, heard, **SETTINGS | {"n_epochs": 1})
    assert [of.task for of in verdict.tasks] == ["rare"]
    assert "training failed" in verdict.unjudged["much"]
    assert heard.steps[-1].step == heard.steps[-1].n_steps


def test_what_cannot_be_judged_at_all_is_refused() -> None:
    model, loaders = helping()
    train = [of for of in loaders if of.dataset.split == "train"]
    with pytest.raises(TaskloomError, match="cannot be judged for any task"):
        SharingStudy(model, TrainerConfig(), train)
    model.remove_task("much")
    with pytest.raises(TaskloomError, match="one task"):
        SharingStudy(model, TrainerConfig(), loaders)
