from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_core import MultitaskClassifier, TaskloomError, TrainerConfig, module_weights
from mtl_core.training.optimizers import build_optimizer, parameter_groups
from mtl_core.training.training_state import load_optimizer_state, read_training_state, save_training_state

from ..shapes import SHAPES, shape_task

SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "optimizer_config": {"sgd_config": {"momentum": 0.0}}},
    {"optimizer": "adam", "module_lrs": {"base_mlp": 0.001}},
    {"optimizer": "adamw", "optimizer_config": {"adam_config": {"amsgrad": True}}},
    {"optimizer": "adamax"},
]


def start(config: TrainerConfig, seed: int = 0) -> tuple[MultitaskClassifier, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = MultitaskClassifier([shape_task(shape) for shape in SHAPES], device=-1)
    return model, build_optimizer(config, parameter_groups(config, model))


def steps(model: MultitaskClassifier, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(3):
        for name, parameter in model.named_parameters():
            # A parameter that has had no gradient yet has no state either.
            parameter.grad = None if "square" in name else torch.randn_like(parameter)
        optimizer.step()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_training_goes_on_to_the_bit_from_what_was_saved(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = TrainerConfig(n_epochs=3, **settings)
    model, optimizer = start(config)
    steps(model, optimizer, 1)
    save_training_state(tmp_path / "trainer", config, optimizer)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    steps(model, optimizer, 2)

    read, state = read_training_state(tmp_path / "trainer")
    assert read == config
    assert state is not None
    other, other_optimizer = start(read, seed=5)
    other.load_state_dict(weights)
    load_optimizer_state(other_optimizer, state)
    assert other_optimizer.state_dict()["param_groups"] == groups
    steps(other, other_optimizer, 2)
    after, other_after = module_weights(model), module_weights(other)
    assert all(torch.equal(after[key], other_after[key]) for key in after)


def test_settings_are_kept_without_an_optimizer(tmp_path: Path) -> None:
    config = TrainerConfig(n_epochs=3)
    save_training_state(tmp_path / "trainer", config, None)
    assert read_training_state(tmp_path / "trainer") == (config, None)


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ({"optimizer": "sgd"}, SHAPES, "its optimizer Adam should be SGD"),
        ({}, ("circle",), "its parameters"),
        ({"module_lrs": {"base_mlp": 0.1}}, SHAPES, "its parameters"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    tmp_path: Path, settings: dict[str, Any], shapes: tuple[str, ...], message: str
) -> None:
    model, optimizer = start(TrainerConfig())
    steps(model, optimizer, 1)
    save_training_state(tmp_path / "trainer", TrainerConfig(), optimizer)
    _, state = read_training_state(tmp_path / "trainer")
    assert state is not None
    config = TrainerConfig(**settings)
    other = MultitaskClassifier([shape_task(shape) for shape in shapes], device=-1)
    theirs = build_optimizer(config, parameter_groups(config, other))
    with pytest.raises(TaskloomError, match=message):
        load_optimizer_state(theirs, state)
    assert theirs.state_dict()["state"] == {}


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        read_training_state(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(TaskloomError, match="no safetensors file"):
        read_training_state(path)
    start(TrainerConfig())[0].save(path)
    with pytest.raises(TaskloomError, match="holds no trainer"):
        read_training_state(path)
