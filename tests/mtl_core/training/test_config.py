from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mtl_core import TrainerConfig


def test_settings_survive_json() -> None:
    config = TrainerConfig(n_epochs=3, optimizer_config={"adam_config": {"betas": [0.8, 0.9]}}, lr=1)  # type: ignore[arg-type]
    assert TrainerConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainerConfig.model_validate(config.model_dump(mode="json")) == config


def test_every_setting_is_described() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        missing: list[str] = []
        for name, info in model.model_fields.items():
            kind: Any = info.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                missing += undescribed(kind)
            if not info.description:
                missing.append(f"{model.__name__}.{name}")
        return missing

    assert undescribed(TrainerConfig) == []
