from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_core import MultitaskClassifier, TaskloomError, TrainerConfig, module_weights
from mtl_core.training.balancing import BALANCERS, Balancer
from mtl_core.training.optimizers import build_optimizer
from mtl_core.training.parameter_groups import parameter_groups
from mtl_core.training.training_state import TrainingState, read_training_state, save_training_state

from ..shapes import SHAPES, shape_task

SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "optimizer_config": {"sgd_config": {"momentum": 0.0}}},
    {"optimizer": "adam", "module_lrs": {"base_mlp": 0.001}},
    {"optimizer": "adamw", "optimizer_config": {"adam_config": {"amsgrad": True}}},
    {"optimizer": "adamax"},
    {"balancing": "uncertainty"},
    {"balancing": "dwa"},
]
TASKS = [f"{shape}_task" for shape in SHAPES]


class Training:
    def __init__(self, config: TrainerConfig, seed: int = 0, shapes: tuple[str, ...] = SHAPES) -> None:
        torch.manual_seed(seed)
        self.model = MultitaskClassifier([shape_task(shape) for shape in shapes], device=-1)
        self.balancer: Balancer = BALANCERS.build(config.balancing)
        self.balancer.begin(self.model, TASKS)
        self.optimizer = build_optimizer(config, parameter_groups(config, self.model, self.balancer))

    @property
    def state(self) -> TrainingState:
        return TrainingState.of(self.optimizer, self.balancer, TASKS)

    def epochs(self, seed: int) -> None:
        """Three epochs of one step each, which the square's task has no label in: its head has no state yet."""
        torch.manual_seed(seed)
        for _ in range(3):
            self.optimizer.zero_grad()
            X_dict, Y_dict = {"circle_data": torch.rand(4, 2)}, {"circle_task": torch.randint(2, (4,))}
            self.balancer.backward(self.model.calculate_loss(X_dict, Y_dict)[0], None, lambda loss: loss)
            self.optimizer.step()
            self.balancer.end_epoch()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_training_goes_on_to_the_bit_from_what_was_saved(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = TrainerConfig(n_epochs=3, **settings)
    first = Training(config)
    first.epochs(1)
    save_training_state(tmp_path / "trainer", config, first.state)
    weights = {name: parameter.detach().clone() for name, parameter in first.model.named_parameters()}
    kept = first.optimizer.state_dict()
    first.epochs(2)

    read, state = read_training_state(tmp_path / "trainer")
    assert read == config
    assert state is not None
    other = Training(read, seed=5)
    other.model.load_state_dict(weights)
    state.put_into(other.optimizer, other.balancer)
    put_back = other.optimizer.state_dict()
    assert kept.keys() == put_back.keys()
    assert all(torch.equal(kept[key], put_back[key]) for key in kept)
    other.epochs(2)
    after, other_after = module_weights(first.model), module_weights(other.model)
    assert all(torch.equal(after[key], other_after[key]) for key in after)
    assert other.balancer.weights() == first.balancer.weights()


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
        ({"balancing": "uncertainty"}, SHAPES, "its parameters"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    tmp_path: Path, settings: dict[str, Any], shapes: tuple[str, ...], message: str
) -> None:
    training = Training(TrainerConfig())
    training.epochs(1)
    save_training_state(tmp_path / "trainer", TrainerConfig(), training.state)
    _, state = read_training_state(tmp_path / "trainer")
    assert state is not None
    other = Training(TrainerConfig(**settings), shapes=shapes)
    with pytest.raises(TaskloomError, match=message):
        state.put_into(other.optimizer, other.balancer)
    assert other.optimizer.state_dict() == {}


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        read_training_state(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(TaskloomError, match="no safetensors file"):
        read_training_state(path)
    Training(TrainerConfig()).model.save(path)
    with pytest.raises(TaskloomError, match="holds no trainer"):
        read_training_state(path)
