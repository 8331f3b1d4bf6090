from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_core import TrainerConfig
from mtl_core.training.lr_schedules import learning_rate


def rates(n_steps: int, steps_per_epoch: int = 2, **settings: Any) -> list[float]:
    config = TrainerConfig(lr=1.0, **settings)
    return [learning_rate(config, step, n_steps, steps_per_epoch) for step in range(n_steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"lr_scheduler": "linear"}, [1, 0.75, 0.5, 0.25]),
        (
            {"lr_scheduler": "exponential", "lr_scheduler_config": {"exponential_config": {"gamma": 0.5}}},
            [1, 0.5, 0.25, 0.125],
        ),
        (
            {"lr_scheduler": "step", "lr_scheduler_config": {"step_config": {"gamma": 0.5, "step_size": 2}}},
            [1, 1, 0.5, 0.5],
        ),
        ({"lr_scheduler_config": {"warmup_steps": 2}}, [0.5, 1, 1, 1]),
        ({"lr_scheduler_config": {"warmup_steps": 1, "warmup_unit": "epochs"}}, [0.5, 1, 1, 1]),
        ({"lr_scheduler_config": {"warmup_percentage": 0.5}}, [0.5, 1, 1, 1]),
        ({"lr_scheduler": "linear", "lr_scheduler_config": {"warmup_steps": 2}}, [0.5, 1, 1, 0.5]),
        ({"lr_scheduler": "linear", "lr_scheduler_config": {"min_lr": 0.6}}, [1, 0.75, 0.6, 0.6]),
    ],
)
def test_schedules_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(4, **settings) == pytest.approx(expected)


@given(
    n_steps=st.integers(1, 50),
    scheduler=st.sampled_from(["constant", "linear", "exponential", "step"]),
    warmup=st.floats(0, 60),
    minimum=st.floats(0, 1),
)
def test_warm_up_rises_and_what_follows_falls_to_the_minimum(
    n_steps: int, scheduler: Any, warmup: float, minimum: float
) -> None:
    config = {"warmup_steps": warmup, "min_lr": minimum}
    values = rates(n_steps, lr_scheduler=scheduler, lr_scheduler_config=config)
    top = min(int(warmup), n_steps)
    assert values[:top] == sorted(values[:top])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert all(0 < value <= 1 for value in values[:top])
    assert all(minimum <= value <= 1 for value in values[top:])
