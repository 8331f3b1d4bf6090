from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mtl_core import TrainerConfig


def test_settings_survive_json() -> None:
    config = TrainerConfig(n_epochs=3, optimizer_config={"adam_config": {"betas": [0.8, 0.9]}}, lr=1)  # type: ignore[arg-type]
    assert TrainerConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainerConfig.model_validate(config.model_dump(mode="json")) == config


def test_every_setting_is_described() -> None:
    schema = TrainerConfig.model_json_schema()
    models = {"TrainerConfig": schema} | schema["$defs"]
    fields = [
        (model, name, field)
        for model, shown in models.items()
        for name, field in shown.get("properties", {}).items()
    ]
    assert len(fields) > 60
    assert [f"{model}.{name}" for model, name, field in fields if not field.get("description")] == []


def test_the_defaults_are_the_seed_framework_s() -> None:
    config = TrainerConfig()
    assert config.lr_scheduler_config.step_config.gamma == 0.9
    assert config.log_writer == "tensorboard"
    assert config.checkpointer_config.checkpoint_dir == "checkpoints"
    assert config.checkpointer_config.checkpoint_metric == "model/all/train/loss:min"
    assert config.log_writer_config.log_dir == "logs"
    assert not config.checkpointing
    assert not config.logging


def test_configurations_share_nothing_that_can_change() -> None:
    TrainerConfig().frozen_modules.append("base_mlp")
    TrainerConfig().module_lrs["base_mlp"] = 0.1
    assert TrainerConfig().frozen_modules == []
    assert TrainerConfig().module_lrs == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_config": {"device": -1}}, "give device and dataparallel to MultitaskClassifier"),
        ({"early_stopping_config": {"metric": "f1-max"}}, "early_stopping_config.metric"),
        ({"early_stopping_config": {"metric": ["a/b/c/d:min", "a/b/c/e:max"]}}, "no mean"),
        ({"lr_scheduler_config": {"plateau_config": {"metric": "a/b/c/d"}}}, "metric:mode"),
        ({"checkpointer_config": {"checkpoint_metric": []}}, "checkpoint_metric"),
        ({"checkpointer_config": {"checkpoint_task_metrics": ["f1:max"]}}, "metric:mode"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"accumulate_batches": 0}, "accumulate_batches"),
        ({"module_lrs": {"base_mlp": 0.0}}, "module_lrs"),
    ],
)
def test_what_is_no_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainerConfig(**settings)


def test_settings_without_a_telling_default_have_an_example() -> None:
    def silent(model: type[BaseModel]) -> list[str]:
        names: list[str] = []
        for name, info in model.model_fields.items():
            if isinstance(info.default, BaseModel):
                names += silent(type(info.default))
            elif info.default in (None, [], {}) and not info.examples:
                names.append(f"{model.__name__}.{name}")
        return names

    assert silent(TrainerConfig) == []
