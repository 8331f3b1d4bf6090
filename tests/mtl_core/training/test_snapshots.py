"""A training that was stopped anywhere ends as one that was not, to the bit."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from torch import nn
from torch.utils.data import Sampler, SubsetRandomSampler, WeightedRandomSampler

from mtl_core import (
    DictDataLoader,
    FitListener,
    MappedDataset,
    MultitaskClassifier,
    Operation,
    Progress,
    SnapshotFolder,
    Snapshots,
    Task,
    TaskloomError,
    Trainer,
    TrainingStoppedError,
    module_weights,
)

from ..shapes import SHAPES, shape_data
from .balancing.problems import EVERY, spec_id
from .tasks_that_peak import tasks_that_peak

N_EPOCHS = 3
BATCHES = 10
"""In an epoch, unless batches are drawn together."""


def noisy_tasks() -> list[Task]:
    """Two tasks whose trunk draws random numbers and keeps running statistics."""
    trunk = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU())
    return [
        Task(
            f"{shape}_task",
            {"trunk": trunk, f"{shape}_head": nn.Linear(8, 2)},
            [
                Operation("trunk", [("_input_", f"{shape}_data")]),
                Operation(f"{shape}_head", ["trunk"], name="head"),
            ],
        )
        for shape in SHAPES
    ]


def loaders(**options: Any) -> list[DictDataLoader]:
    """Six batches of circles, of which some examples have no label, and four of squares."""
    circles, squares = shape_data("circle", n=24), shape_data("square", n=16)
    circles.Y_dict["circle_task"][::5] = -1
    train = [
        DictDataLoader(data, batch_size=4, **(options or {"shuffle": True})) for data in (circles, squares)
    ]
    return [*train, *(DictDataLoader(shape_data(shape, "valid", n=16)) for shape in SHAPES)]


@dataclass
class Heard(FitListener):
    """Keeps what is told, and stops after some batches."""

    stop_after: set[int] = field(default_factory=set)
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.batches[-1]

    def on_batch(self, progress: Progress) -> None:
        self.batches.append(progress.step)

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.metrics.append((progress.step, metrics))

    def on_log(self, message: str) -> None:
        self.lines.append(message)

    def wants_stop(self) -> bool:
        return self.step in self.stop_after


Whole: TypeAlias = tuple[Heard, Trainer, MultitaskClassifier]
"""A training that came to its end."""


@dataclass
class Trial:
    """What is trained, made anew for every attempt from another random state."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    tasks: Callable[[], list[Task]] = noisy_tasks
    loaders: Callable[[], list[DictDataLoader]] = loaders

    def attempt(
        self, name: str, heard: Heard, snapshots: Snapshots | None = None
    ) -> tuple[Trainer, MultitaskClassifier]:
        model = MultitaskClassifier(self.tasks(), device=-1)
        folder = self.folder / name
        settings = {"n_epochs": N_EPOCHS, "lr": 0.05, "seed": 7, "progress_bar": False} | self.settings
        settings["checkpointer_config"] = settings.get("checkpointer_config", {}) | {
            "checkpoint_dir": str(folder / "checkpoints")
        }
        settings["log_writer_config"] = {"log_dir": str(folder / "logs"), "run_name": "run"}
        trainer = Trainer(**settings)
        trainer.fit(model, self.loaders(), heard, snapshots)
        return trainer, model

    def snapshots(self) -> Snapshots:
        return Snapshots(SnapshotFolder(self.folder / "snapshots"), every=0)

    def whole(self) -> Whole:
        torch.manual_seed(1)
        heard = Heard()
        return heard, *self.attempt("whole", heard)

    def broken(self, *stop_after: int) -> Whole:
        heard = Heard()
        for number, step in enumerate(stop_after):
            self.stop_at(step, heard, seed=1 + number)
        return heard, *self.attempt("last attempt", heard, self.snapshots())

    def stop_at(self, step: int, heard: Heard | None = None, seed: int = 1) -> None:
        """Train up to a step, as in a process that has random numbers of its own."""
        torch.manual_seed(seed)
        heard = heard or Heard()
        heard.stop_after = {step}
        with pytest.raises(TrainingStoppedError):
            self.attempt(f"up to {step}", heard, self.snapshots())
        heard.stop_after = set()

    def check(self, *stop_after: int, whole: Whole | None = None) -> None:
        heard, trainer, model = whole or self.whole()
        again, trainer_again, model_again = self.broken(*stop_after)
        assert_same(module_weights(model), module_weights(model_again))
        assert as_json(heard.metrics) == as_json(again.metrics)
        assert as_json(trainer.metrics) == as_json(trainer_again.metrics)
        assert heard.lines == again.lines
        assert heard.batches == again.batches
        assert trainer.affinities == trainer_again.affinities
        assert_same(optimizer_state(trainer), optimizer_state(trainer_again))
        assert_same(trainer.balancer.state_dict(), trainer_again.balancer.state_dict())


def optimizer_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert trainer.optimizer is not None
    return trainer.optimizer.state_dict()


def as_json(value: Any) -> str:
    """Return a text in which NaN is like NaN, and floats are told apart to the bit."""
    return json.dumps(value)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


class Wholes:
    """Trainings that nothing stopped, each made once."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._made: dict[str, Whole] = {}

    def of(self, settings: dict[str, Any]) -> Whole:
        """Return the one by these settings."""
        key = as_json(settings)
        if key not in self._made:
            self._made[key] = Trial(self._folders.mktemp("whole"), settings).whole()
        return self._made[key]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    return Wholes(tmp_path_factory)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"compile": "off"},
    {"batch_scheduler": "joint"},
    {"batch_scheduler": "sequential"},
    {"batch_scheduler": "proportional"},
    {"batch_scheduler": "annealed"},
    {"batch_scheduler": "round_robin", "accumulate_batches": 3},
    {"optimizer": "sgd", "grad_clip": 0.1},
    {"optimizer": "adamax", "l2": 0.1},
    {"optimizer": "adamw", "module_lrs": {"trunk": 0.1}},
    {"lr_scheduler": "one_cycle", "lr_scheduler_config": {"warmup_steps": 4}},
    {"lr_scheduler": "plateau", "lr_scheduler_config": {"plateau_config": {"patience": 1, "threshold": 0.5}}},
    {"ema_decay": 0.9},
    {"frozen_modules": ["trunk"]},
    {"class_prior_bias": True},
    {"diagnosis": True, "batch_scheduler": "joint"},
    {"precision": "bfloat16"},
    {"log_manager_config": {"counter_unit": "batches", "evaluation_freq": 3}},
    {"early_stopping": True, "early_stopping_config": {"patience": 2}},
    {
        "checkpointing": True,
        "log_manager_config": {"counter_unit": "batches", "evaluation_freq": 4},
        "checkpointer_config": {
            "checkpoint_metric": "model/all/valid/loss:min",
            "checkpoint_task_metrics": ["circle_task/*/valid/accuracy:max"],
        },
    },
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("stops", [(1,), (7, 9), (10, 20), (13, 14, 29)], ids=str)
def test_a_training_that_was_stopped_ends_to_the_bit_as_one_that_was_not(
    tmp_path: Path, wholes: Wholes, settings: dict[str, Any], stops: tuple[int, ...]
) -> None:
    if settings.get("batch_scheduler") == "joint":
        stops = tuple(stop for stop in stops if stop < 3 * 6)
    if settings.get("accumulate_batches"):
        stops = (3, 19)
    Trial(tmp_path, settings).check(*stops, whole=wholes.of(settings))


@pytest.mark.parametrize("spec", EVERY, ids=spec_id)
def test_balancers_go_on_where_they_were(tmp_path: Path, spec: Any) -> None:
    if spec_id(spec).startswith("fixed"):
        spec = {"type": "fixed", "weights": {"circle_task": 2.0}}
    Trial(tmp_path, {"balancing": spec, "batch_scheduler": "joint"}).check(4, 13)


@pytest.mark.parametrize("stop", [1, 9, 13, 40])
def test_a_task_that_has_peaked_stays_held_to_its_best(tmp_path: Path, stop: int) -> None:
    settings = {
        "early_stopping": True,
        "early_stopping_config": {"per_task": True, "patience": 2},
        "n_epochs": 12,
    }

    def parts() -> tuple[list[Task], list[DictDataLoader]]:
        model, data = tasks_that_peak()
        return list(model.tasks.values()), data

    Trial(tmp_path, settings, lambda: parts()[0], lambda: parts()[1]).check(stop)


def generated() -> torch.Generator:
    return torch.Generator().manual_seed(5)


class OneByOne(Sampler[int]):
    """Draws its order as it goes."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return (int(torch.randint(self.n, ())) for _ in range(self.n))


def with_workers() -> list[DictDataLoader]:
    return loaders(shuffle=True, num_workers=1)


def collated() -> list[DictDataLoader]:
    found = loaders()
    for loader in found:
        loader.dataset.X_dict["names"] = ["a"] * len(loader.dataset)
    return [DictDataLoader(of.dataset, batch_size=4, shuffle=of.dataset.split == "train") for of in found]


def mapped(folder: Path) -> list[DictDataLoader]:
    found: list[DictDataLoader] = []
    for number, loader in enumerate(loaders()):
        data = loader.dataset
        files: list[dict[str, Path]] = []
        for arrays in (data.X_dict, data.Y_dict):
            files.append({name: folder / f"{number}-{name}.npy" for name in arrays})
            for name, path in files[-1].items():
                np.save(path, arrays[name].numpy())
        dataset = MappedDataset.open(data.name, data.split, *files, resident_bytes=0)
        found.append(DictDataLoader(dataset, batch_size=4, shuffle=data.split == "train"))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler(range(14))},
        {"sampler": WeightedRandomSampler([1.0] * 16, 16)},
        {"shuffle": True, "drop_last": True},
    ],
    ids=["subset", "weighted", "drop_last"],
)
def test_samplers_that_draw_an_order_at_once_go_on_within_an_epoch(tmp_path: Path, options: Any) -> None:
    Trial(tmp_path, loaders=lambda: loaders(**options)).check(5, 14)


def test_examples_that_are_collated_go_on_within_an_epoch(tmp_path: Path) -> None:
    Trial(tmp_path, loaders=collated).check(5, 14)


def test_loaders_with_workers_go_on_within_an_epoch(tmp_path: Path) -> None:
    Trial(tmp_path, loaders=with_workers).check(5)


def test_mapped_data_goes_on_within_an_epoch(tmp_path: Path) -> None:
    Trial(tmp_path, loaders=lambda: mapped(tmp_path)).check(5, 14)


@pytest.mark.parametrize(
    "make",
    [lambda: {"shuffle": True, "generator": generated()}, lambda: {"sampler": OneByOne(16)}],
    ids=["generator", "one by one"],
)
def test_other_samplers_go_on_between_epochs(tmp_path: Path, make: Callable[[], Any]) -> None:
    per_epoch = len(loaders(**make())[0]) + len(loaders(**make())[1])
    Trial(tmp_path, loaders=lambda: loaders(**make())).check(per_epoch, 2 * per_epoch)
    within = Trial(tmp_path / "within", loaders=lambda: loaders(**make()))
    heard, _, model = within.whole()
    again, _, model_again = within.broken(per_epoch + 2)
    assert_same(module_weights(model), module_weights(model_again))
    assert again.batches == [*range(1, per_epoch + 3), *heard.batches[per_epoch:]]


def test_a_training_without_a_seed_goes_on_with_the_weights_and_random_numbers_that_it_had(
    tmp_path: Path,
) -> None:
    Trial(tmp_path, {"seed": None}).check(5, 14)


@pytest.mark.parametrize("kind", ["json", "tensorboard"])
def test_the_log_has_all_that_was_logged_before(tmp_path: Path, kind: str) -> None:
    trial = Trial(tmp_path, {"logging": True, "log_writer": kind})
    trial.check(7, 25)
    whole, again = (logged(tmp_path / name / "logs" / "run", kind) for name in ("whole", "last attempt"))
    assert whole == again
    assert len(whole) > 3


def logged(folder: Path, kind: str) -> Any:
    if kind == "json":
        return json.loads((folder / "log.json").read_text())
    [path] = folder.glob("events.out.tfevents.*")
    events = [Event.FromString(record) for record in records(path.read_bytes())]
    return sorted(
        (of.tag, event.step, str(of.simple_value)) for event in events for of in event.summary.value
    )


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of an event file, each of which stands between its length and checksums."""
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield content[place + 12 : place + 12 + length]
        place += 12 + length + 4


def test_a_training_that_is_over_is_not_trained_again(tmp_path: Path) -> None:
    trial = Trial(
        tmp_path, {"diagnosis": True, "batch_scheduler": "joint", "logging": True, "log_writer": "json"}
    )
    heard, trainer, model = trial.broken(4)
    again, trainer_again, model_again = trial.broken()
    assert again.batches == []
    assert again.metrics == []
    assert not model_again.training
    assert_same(module_weights(model), module_weights(model_again))
    assert as_json(trainer.metrics) == as_json(trainer_again.metrics)
    assert trainer.affinities == trainer_again.affinities
    assert logged(tmp_path / "last attempt" / "logs" / "run", "json")
    assert len(heard.batches) == 3 * 6


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "bit-flipped": lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_snapshot_is_passed_over_for_the_one_before(tmp_path: Path, how: str) -> None:
    trial = Trial(tmp_path)
    heard, _, model = trial.whole()
    trial.stop_at(14)
    before, newest = sorted((tmp_path / "snapshots").iterdir())
    newest.write_bytes(DAMAGE[how](newest.read_bytes()))
    again = Heard()
    _, model_again = trial.attempt("second", again, trial.snapshots())
    assert again.batches == heard.batches[13:]
    assert_same(module_weights(model), module_weights(model_again))
    assert not before.exists()


def test_without_an_intact_snapshot_training_begins_anew(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.stop_at(14)
    for path in (tmp_path / "snapshots").iterdir():
        path.write_bytes(b"no snapshot")
    again = Heard()
    trial.attempt("second", again, trial.snapshots())
    assert again.batches == list(range(1, 31))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": {"lr": 0.1}},
            r"another training: its settings should be \{'lr': 0.1\}, not \{'lr': 0.05\}",
        ),
        (
            {"loaders": lambda: loaders(shuffle=True)[1:]},
            "another training: its batches should be 12, not 30",
        ),
    ],
)
def test_the_snapshot_of_another_training_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    trial = Trial(tmp_path)
    trial.broken(4)
    with pytest.raises(TaskloomError, match=message):
        Trial(tmp_path, **changes).attempt("other", Heard(), trial.snapshots())


def test_training_goes_on_when_there_is_no_room_for_a_snapshot(tmp_path: Path) -> None:
    class Full(SnapshotFolder):
        def add(self, write: Callable[[Path], None]) -> None:
            super().add(write)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    heard = Heard()
    trial = Trial(tmp_path)
    trial.attempt("full", heard, Snapshots(Full(tmp_path / "snapshots"), every=0))
    assert heard.batches == list(range(1, 31))
    assert set(heard.lines) == {"no snapshot was saved: No space left on device"}


def test_snapshots_take_no_more_than_their_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("mtl_core.training.snapshots.time", clock)

    class Slow(SnapshotFolder):
        def add(self, write: Callable[[Path], None]) -> None:
            super().add(write)
            clock.now += 3.0

    snapshots = Snapshots(Slow(tmp_path), share=0.02)
    snapshots.begin(n_bytes=0)
    spent = 0.0
    for step in range(20_000):
        clock.now += 0.1
        if snapshots.is_due():
            snapshots.save(lambda step=step: {"step": step})
            spent += 3.0
            # What the first costs is not known before.
            assert spent <= max(0.02 * clock.now, 3.0)
    assert spent > 0.015 * clock.now
    newest = snapshots.newest()
    assert newest
    assert newest["step"] > 18_000


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now
