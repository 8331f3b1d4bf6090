from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Task
from mtl_core.losses import MeanSquaredError
from mtl_core.outputs import Identity
from mtl_core.training.config import DiagnosisConfig
from mtl_core.training.diagnosis import Diagnosis


def line(name: str, trunk: nn.Module, *further: tuple[str, nn.Module]) -> Task:
    """A task whose answer is what the trunk, and then further modules of one number, make of x."""
    path = [("trunk", trunk), *further]
    inputs = [[("_input_", "x")], *([before] for before, _ in path[:-1])]
    ops = [Operation(module, read) for (module, _), read in zip(path, inputs, strict=True)]
    return Task(name, dict(path), ops, loss_func=MeanSquaredError(), output_func=Identity())


def diagnosed(tasks: list[Task], **labels: list[float]) -> tuple[Diagnosis, MultitaskClassifier]:
    Y_dict = {name: torch.tensor(values)[:, None] for name, values in labels.items()}
    n = len(next(iter(Y_dict.values())))
    data = DictDataset("d", "train", {"x": torch.ones(n, 1)}, Y_dict)
    model = MultitaskClassifier(tasks, device="cpu")
    return Diagnosis(DiagnosisConfig(), model, [DictDataLoader(data, batch_size=n)], 100), model


def zero_line() -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def test_opposite_labels_pull_against_one_another_and_equal_ones_do_not() -> None:
    trunk = zero_line()
    tasks = [line(name, trunk) for name in ("up", "too", "down")]
    diagnosis, _ = diagnosed(tasks, up=[1.0], too=[3.0], down=[-2.0])
    metrics = diagnosis.measure("train")
    assert metrics["down/all/train/gradient_cosine:up"] == pytest.approx(-1)
    assert metrics["too/all/train/gradient_cosine:up"] == pytest.approx(1)
    assert metrics["down/all/train/gradient_cosine:up@trunk"] == pytest.approx(-1)
    # Losses are the labels' squares, gradients twice the labels.
    assert metrics["too/all/train/loss_share"] == pytest.approx(9 / 14)
    assert metrics["too/all/train/gradient_share"] == pytest.approx(3 / 6)
    assert diagnosis.affinities == pytest.approx({("down", "too"): -1, ("down", "up"): -1, ("too", "up"): 1})
    told = diagnosis.summary()
    assert len(told) == 2
    assert all("'down'" in text and "module 'trunk' (-1.00)" in text for text in told)


def test_two_tasks_are_compared_on_what_both_use_and_each_module_tells_where() -> None:
    torch.manual_seed(0)
    trunk, pair = nn.Linear(1, 1), nn.Linear(1, 1)
    tasks = [line("a", trunk, ("pair", pair)), line("b", trunk, ("pair", pair)), line("c", trunk)]
    labels = {"a": [1.0], "b": [5.0], "c": [-3.0]}
    diagnosis, model = diagnosed(tasks, **labels)
    metrics = diagnosis.measure("train")

    def gradient(task: str, *modules: str) -> torch.Tensor:
        X_dict, Y_dict = {"x": torch.ones(1, 1)}, {task: torch.tensor([labels[task]])}
        loss = model.calculate_loss(X_dict, Y_dict)[0][task]
        parameters = [p for module in modules for p in model.module_pool[module].parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)])

    def cosine(one: str, other: str, *modules: str) -> float:
        return float(torch.cosine_similarity(gradient(one, *modules), gradient(other, *modules), dim=0))

    prefix = "{}/all/train/gradient_cosine:{}"
    assert metrics[prefix.format("a", "b")] == pytest.approx(cosine("a", "b", "trunk", "pair"), abs=1e-5)
    assert metrics[prefix.format("a", "c")] == pytest.approx(cosine("a", "c", "trunk"), abs=1e-5)
    assert metrics[prefix.format("a", "b@pair")] == pytest.approx(cosine("a", "b", "pair"), abs=1e-5)
    assert prefix.format("a", "c@pair") not in metrics


def test_one_task_alone_or_tasks_that_share_nothing_have_no_gradients_to_compare() -> None:
    alone, _ = diagnosed([line("a", zero_line())], a=[1.0])
    assert alone.measure("train") == {}
    apart = [
        line("a", zero_line()),
        Task("b", {"other": zero_line()}, [Operation("other", [("_input_", "x")])]),
    ]
    apart[1].loss_func = MeanSquaredError()
    diagnosis, _ = diagnosed(apart, a=[1.0], b=[1.0])
    assert set(diagnosis.measure("train")) == {"a/all/train/loss_share", "b/all/train/loss_share"}
    assert diagnosis.affinities == {}
    assert diagnosis.summary() == ["no two tasks pull against one another on the modules that they share"]


def test_a_task_without_a_label_in_the_batch_is_left_out_and_a_zero_gradient_has_no_angle() -> None:
    trunk = zero_line()
    tasks = [line(name, trunk) for name in ("a", "b", "done")]
    diagnosis, _ = diagnosed(tasks, a=[1.0], b=[math.nan], done=[0.0])
    metrics = diagnosis.measure("train")
    assert "a/all/train/gradient_cosine:b" not in metrics
    assert "a/all/train/gradient_cosine:done" not in metrics
    assert metrics["a/all/train/gradient_share"] == 1
    assert metrics["done/all/train/gradient_share"] == 0


def test_many_tasks_are_compared_without_a_series_for_each_pair() -> None:
    trunk = zero_line()
    names = [f"t{i:02}" for i in range(30)]
    diagnosis, _ = diagnosed(
        [line(name, trunk) for name in names], **{n: [1.0 + i] for i, n in enumerate(names)}
    )
    metrics = diagnosis.measure("train")
    assert not any("gradient_cosine" in key for key in metrics)
    assert len(diagnosis.affinities) == 30 * 29 / 2


def test_running_statistics_and_random_numbers_stay_as_they_are() -> None:
    trunk = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5), nn.Linear(1, 1))
    diagnosis, model = diagnosed([line("a", trunk), line("b", trunk)], a=[1.0, 2.0], b=[2.0, 1.0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.train()
    diagnosis.measure("train")
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
