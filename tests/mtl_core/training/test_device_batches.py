from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Sampler

from mtl_core import (
    ArrayWriter,
    DictDataLoader,
    DictDataset,
    FitListener,
    MappedDataset,
    MultitaskClassifier,
    Progress,
    ShuffledScheduler,
    Trainer,
)
from mtl_core.data import collate_dicts
from mtl_core.training.device_batches import BatchSource, HeldSplit, SentAhead, on_device

from ..shapes import SHAPES, shape_data, shape_loaders, shape_task

CPU = torch.device("cpu")

# A device that is another than the CPU on any machine; what lies there has a shape and no values.
ELSEWHERE = torch.device("meta")

# Rows of two float32 and one int64.
BYTES_OF_SPLIT = 64 * (2 * 4 + 8)

KINDS: dict[str, Callable[[DictDataLoader], BatchSource]] = {
    "held": lambda loader: HeldSplit(loader, copied(loader.dataset)),
    "ahead": lambda loader: SentAhead(loader, CPU),
}
BOTH_KINDS = pytest.mark.parametrize("kind", KINDS)


def copied(data: DictDataset) -> DictDataset:
    X_dict, Y_dict = (
        {name: values.clone() for name, values in of.items()} for of in (data.X_dict, data.Y_dict)
    )
    return DictDataset(data.name, data.split, X_dict, Y_dict)


def mapped(folder: Path, data: DictDataset) -> MappedDataset:
    def written(name: str, values: torch.Tensor) -> Path:
        path, array = folder / f"{data.name}_{name}.npy", values.numpy()
        with ArrayWriter(path, array.dtype, array.shape[1:], len(array)) as writer:
            writer.write(array)
        return path

    X_files, Y_files = (
        {name: written(name, values) for name, values in of.items()} for of in (data.X_dict, data.Y_dict)
    )
    return MappedDataset.open(data.name, data.split, X_files, Y_files)


def drawn(sources: list[Any], n_epochs: int = 3) -> list[Any]:
    """The batches of some epochs of a random schedule, with a number drawn after each as an evaluation might."""
    torch.manual_seed(3)
    found: list[Any] = []
    for _ in range(n_epochs):
        for [((X_dict, Y_dict), source)] in ShuffledScheduler().get_steps(sources):
            batch = {name: values.tolist() for name, values in (X_dict | Y_dict).items()}
            found.append((source.dataset.name, batch, torch.rand(1).item()))
    return found


@BOTH_KINDS
@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}])
def test_batches_and_random_numbers_are_those_of_the_loaders(kind: str, options: dict[str, Any]) -> None:
    loaders = shape_loaders(batch_size=10, **options)
    sources = [KINDS[kind](loader) for loader in loaders]
    assert [len(source) for source in sources] == [len(loader) for loader in loaders]
    assert drawn(sources) == drawn(loaders)


class DrawsAsItGoes(Sampler[int]):
    """Draws examples with replacement, each when it is asked for."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(64):
            yield int(torch.randint(64, (1,)))

    def __len__(self) -> int:
        return 64


def test_a_held_split_draws_from_a_sampler_of_ones_own_when_its_turn_comes() -> None:
    loaders = [DictDataLoader(shape_data(shape), batch_size=10, sampler=DrawsAsItGoes()) for shape in SHAPES]
    assert drawn([KINDS["held"](loader) for loader in loaders]) == drawn(loaders)


@pytest.mark.parametrize("wrong", [-1, 64])
def test_an_example_that_there_is_not_is_refused(wrong: int) -> None:
    loader = DictDataLoader(shape_data("circle"), batch_size=2, sampler=[0, wrong])
    with pytest.raises(IndexError, match="none of the 64"):
        list(KINDS["held"](loader))


class OfItsOwn(DictDataset):
    """Gathers batches in a way that nothing is known of, though it is the usual one."""

    def batch(self, indices: Any) -> Any:
        return super().batch(indices)


def own(data: DictDataset) -> DictDataset:
    return OfItsOwn(data.name, data.split, data.X_dict, data.Y_dict)


class Watched(DictDataset):
    """Tells which batches it was asked for, and when there were two; cannot gather row 63."""

    asked: list[list[int]]
    second: threading.Event

    @classmethod
    def of(cls, data: DictDataset) -> Watched:
        watched = cls(data.name, data.split, data.X_dict, data.Y_dict)
        watched.asked, watched.second = [], threading.Event()
        return watched

    def batch(self, indices: Any) -> Any:
        self.asked.append([int(index) for index in indices])
        if 63 in self.asked[-1]:
            raise OSError("row 63 is broken")
        if len(self.asked) == 2:
            self.second.set()
        return super().batch(indices)


def test_one_batch_is_gathered_while_another_is_worked_on() -> None:
    data = Watched.of(shape_data("circle"))
    batches = iter(SentAhead(DictDataLoader(data, batch_size=2), CPU))
    assert data.asked == []
    next(batches)
    assert data.second.wait(timeout=60)
    # When it is left, what was begun is finished.
    del batches
    gc.collect()
    assert data.asked == [[0, 1], [2, 3]]


def test_what_fails_in_gathering_fails_where_the_batch_is_asked_for() -> None:
    batches = iter(SentAhead(DictDataLoader(Watched.of(shape_data("circle")), batch_size=16), CPU))
    assert [len(next(batches)[1]["circle_task"]) for _ in range(3)] == [16] * 3
    with pytest.raises(OSError, match="row 63"):
        next(batches)


def test_an_epoch_that_is_left_leaves_no_thread() -> None:
    def senders() -> int:
        return sum(thread.name.startswith("batches") for thread in threading.enumerate())

    batches: Iterator[Any] | None = iter(SentAhead(shape_loaders(batch_size=2)[0], CPU))
    next(batches)
    assert senders() == 1
    batches = None
    gc.collect()
    assert senders() == 0


def test_on_the_cpu_sources_are_the_loaders() -> None:
    loaders = shape_loaders()
    assert on_device(loaders, CPU, budget=10**9) == (loaders, [])


def test_splits_that_fit_lie_on_the_device() -> None:
    sources, lines = on_device(shape_loaders(), ELSEWHERE, budget=2 * BYTES_OF_SPLIT)
    assert all(isinstance(source, HeldSplit) for source in sources)
    for source, shape in zip(sources, SHAPES, strict=True):
        assert (source.dataset.name, source.dataset.split) == (f"{shape}Dataset", "train")
        for X_dict, Y_dict in source:
            assert X_dict[f"{shape}_data"].device == Y_dict[f"{shape}_task"].device == ELSEWHERE
            assert X_dict[f"{shape}_data"].shape == (16, 2)
    assert lines == ["the training split of 'circleDataset' and 'squareDataset' lies on meta (0.0 MB)"]


def test_splits_that_do_not_fit_together_are_sent_ahead() -> None:
    sources, lines = on_device(shape_loaders(), ELSEWHERE, budget=2 * BYTES_OF_SPLIT - 1)
    assert all(isinstance(source, SentAhead) for source in sources)
    [(X_dict, Y_dict), *_] = sources[0]
    assert X_dict["circle_data"].device == Y_dict["circle_task"].device == ELSEWHERE
    assert lines == [
        f"batches of '{shape}Dataset' are gathered and sent to meta one ahead:"
        " 0.0 MB in memory do not fit into 0.0 MB there"
        for shape in SHAPES
    ]


def test_without_a_gpu_nothing_is_known_of_the_devices_memory() -> None:
    sources, _ = on_device(shape_loaders(), ELSEWHERE)
    assert all(isinstance(source, SentAhead) for source in sources)


def test_a_tensor_of_two_splits_is_copied_once() -> None:
    circle = shape_data("circle")
    points = circle.X_dict["circle_data"]
    other = DictDataset("other", "train", {"x": points}, {"t": circle.Y_dict["circle_task"]})
    loaders = [DictDataLoader(data, batch_size=16) for data in (circle, other)]
    sources, _ = on_device(loaders, ELSEWHERE, budget=BYTES_OF_SPLIT)
    first, second = (source.dataset for source in sources)
    assert first.X_dict["circle_data"] is second.X_dict["x"]
    assert first.Y_dict["circle_task"] is second.Y_dict["t"]


def test_what_is_mapped_is_sent_ahead_beside_what_is_held(tmp_path: Path) -> None:
    data = mapped(tmp_path, shape_data("circle"))
    loaders = [DictDataLoader(data, batch_size=16), *shape_loaders(["square"])]
    sources, lines = on_device(loaders, ELSEWHERE, budget=BYTES_OF_SPLIT)
    assert [type(source) for source in sources] == [SentAhead, HeldSplit]
    assert lines == [
        "batches of 'circleDataset' are gathered and sent to meta one ahead: it is mapped from files",
        "the training split of 'squareDataset' lies on meta (0.0 MB)",
    ]


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (
            DictDataLoader(shape_data("circle"), sampler=DrawsAsItGoes()),
            "its sampler may draw batch by batch",
        ),
        (
            DictDataLoader(own(shape_data("circle"))),
            "its dataset gathers batches in a way of its own",
        ),
        (
            DictDataLoader(shape_data("circle"), collate_fn=partial(collate_dicts)),
            "it has a collate function of its own",
        ),
    ],
    ids=["sampler", "dataset", "collate_fn"],
)
def test_what_could_notice_being_asked_early_is_asked_in_its_turn(
    loader: DictDataLoader, reason: str
) -> None:
    sources, lines = on_device([loader], ELSEWHERE)
    assert sources == [loader]
    assert lines == [
        f"batches of 'circleDataset' are gathered and sent to meta as their turn comes: {reason}"
    ]


class Heard(FitListener):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lines: list[str] = []

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.losses.append(metrics["model/all/train/loss"])

    def on_log(self, message: str) -> None:
        self.lines.append(message)


def heard(device: str, datasets: list[DictDataset]) -> Heard:
    """What a training with dropout says, on partly labelled examples with weights."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.3))
    tasks = [shape_task(shape, trunk, nn.Linear(8, 2)) for shape in SHAPES]
    loaders = [DictDataLoader(data, batch_size=10, shuffle=True) for data in datasets]
    listener = Heard()
    trainer = Trainer(seed=1, n_epochs=3, compile="off", progress_bar=False)
    trainer.fit(MultitaskClassifier(tasks, device=device), loaders, listener)
    return listener


def partly_labelled(shape: str) -> DictDataset:
    data = shape_data(shape)
    data.Y_dict[f"{shape}_task"][::3] = -1
    data.X_dict["_weights_"] = torch.linspace(0, 2, 64)
    return data


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_losses_are_those_of_batches_sent_in_their_turn(tmp_path: Path) -> None:
    datasets = [partly_labelled(shape) for shape in SHAPES]
    in_turn = heard("cuda:0", [own(data) for data in datasets])
    held = heard("cuda:0", datasets)
    ahead = heard("cuda:0", [mapped(tmp_path, data) for data in datasets])
    assert any("as their turn comes" in line for line in in_turn.lines)
    assert any("lies on cuda:0" in line for line in held.lines)
    assert any("one ahead" in line for line in ahead.lines)
    assert held.losses == pytest.approx(in_turn.losses, rel=1e-5)
    assert ahead.losses == pytest.approx(in_turn.losses, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH_KINDS
def test_on_a_gpu_batches_hold_their_values_while_it_is_busy(kind: str) -> None:
    gpu = torch.device("cuda:0")
    data = DictDataset("d", "train", {"x": torch.randn(4096, 512)}, {"t": torch.arange(4096)})
    loader = DictDataLoader(data, batch_size=256)
    budget = 10**9 if kind == "held" else 0
    [source], _ = on_device([loader], gpu, budget)
    work = torch.randn(2048, 2048, device=gpu)
    sums: list[torch.Tensor] = []
    for X_dict, Y_dict in source:
        for _ in range(20):
            work = work @ work / 2048
        sums.append(X_dict["x"].double().sum() + Y_dict["t"].sum())
    expected = [(X_dict["x"].double().sum() + Y_dict["t"].sum()).item() for X_dict, Y_dict in loader]
    assert torch.stack(sums).tolist() == pytest.approx(expected)
