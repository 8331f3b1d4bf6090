from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import TaskloomError, TrainerConfig
from mtl_core.training.lr_schedules import LRSchedule, Plateau, learning_rate


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
        ({"lr_scheduler": "cosine"}, [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        (
            {"lr_scheduler": "cosine", "lr_scheduler_config": {"warmup_steps": 2, "min_lr": 0.2}},
            [0.5, 1, 1, 0.6],
        ),
        (
            {
                "lr_scheduler": "one_cycle",
                "lr_scheduler_config": {
                    "one_cycle_config": {"pct_start": 0.5, "div_factor": 4, "final_div_factor": 5}
                },
            },
            [0.25, 1, 0.525, 0.05],
        ),
        ({"lr_scheduler": "plateau", "lr_scheduler_config": {"warmup_steps": 2}}, [0.5, 1, 1, 1]),
    ],
)
def test_schedules_by_hand(settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(4, **settings) == pytest.approx(expected)


@given(
    n_steps=st.integers(1, 50),
    scheduler=st.sampled_from(["constant", "linear", "exponential", "step", "cosine", "plateau"]),
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


# The first optimizer of torch's own in a process imports its compiler, which takes seconds.
@settings(deadline=None)
@given(
    n_steps=st.integers(4, 60),
    pct_start=st.floats(0.3, 0.9),
    div_factor=st.floats(1, 50),
    final_div_factor=st.floats(1, 1e4),
)
def test_one_cycle_is_torch_s(
    n_steps: int, pct_start: float, div_factor: float, final_div_factor: float
) -> None:
    cycle = {"pct_start": pct_start, "div_factor": div_factor, "final_div_factor": final_div_factor}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=n_steps, cycle_momentum=False, **cycle
    )
    expected: list[float] = []
    for _ in range(n_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    config = {"one_cycle_config": cycle}
    assert rates(n_steps, lr_scheduler="one_cycle", lr_scheduler_config=config) == pytest.approx(expected)


@given(st.integers(1, 50), st.floats(0, 1))
def test_a_cycle_of_any_length_stays_below_its_top(n_steps: int, pct_start: float) -> None:
    values = rates(
        n_steps, lr_scheduler="one_cycle", lr_scheduler_config={"one_cycle_config": {"pct_start": pct_start}}
    )
    assert all(0 < value <= 1 for value in values)


def schedule(**settings: Any) -> LRSchedule:
    return LRSchedule(
        TrainerConfig(
            lr=1.0,
            lr_scheduler="plateau",
            lr_scheduler_config={"min_lr": 0.2, "plateau_config": settings},  # type: ignore[arg-type]
        ),
        n_steps=100,
        steps_per_epoch=10,
    )


def heard(plateau: LRSchedule, values: list[float], key: str = "model/all/valid/loss") -> list[float]:
    lrs: list[float] = []
    for step, value in enumerate(values):
        plateau.hear({key: value})
        lrs.append(plateau.rate(step))
    return lrs


def test_a_plateau_lowers_the_rate_down_to_the_floor() -> None:
    values = [1.0, 0.9, 0.95, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9]
    assert heard(schedule(factor=0.5, patience=2), values) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]


def test_a_plateau_watches_its_metric_by_its_threshold() -> None:
    metric = "circle/shapes/valid/accuracy"
    watching = schedule(metric=f"{metric}:max", factor=0.5, patience=1, threshold=0.1)
    assert heard(watching, [0.5, 0.55, 0.7, float("nan")], metric) == [1, 0.5, 0.5, 0.25]
    with pytest.raises(TaskloomError, match="'circle/shapes/valid/accuracy' is logged"):
        watching.hear({"model/all/valid/loss": 1.0})


def test_a_plateau_watches_the_loss_of_the_validation_split() -> None:
    config = TrainerConfig(valid_split="dev").lr_scheduler_config.plateau_config
    plateau = Plateau(config, "dev")
    assert not plateau.hear({"model/all/dev/loss": 1.0})
    assert plateau.best == 1.0


def test_the_other_schedules_hear_nothing() -> None:
    deaf = LRSchedule(TrainerConfig(lr=1.0, lr_scheduler_config={"warmup_percentage": 0.2}), 10, 5)  # type: ignore[arg-type]
    assert deaf.warmup_steps == 2
    assert not deaf.hear({})
    assert [deaf.rate(step) for step in range(3)] == [0.5, 1, 1]
