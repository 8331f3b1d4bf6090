from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.problems import Invalid
from app.runs.trainer_config import RunTrainerConfig
from app.searches.schemas import Dimension, FloatRange, IntRange, SearchIn
from app.searches.series import is_judged
from app.searches.space import Point, architecture_of, highest, params_of, probes, trainer_with
from app.searches.state import Outcome
from app.searches.study import Study, Tried

DIMENSION: TypeAdapter[Dimension] = TypeAdapter(Dimension)
SPACE: dict[str, Any] = {
    "trainer.lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "trainer.l2": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.3},
    "trainer.batch_size": {"type": "int", "low": 8, "high": 64, "step": 8},
    "trainer.optimizer": {"type": "choice", "choices": ["sgd", "adam"]},
}


def search(**changes: Any) -> SearchIn:
    return SearchIn.model_validate(
        {
            "train": {"datasets": ["d"]},
            "space": SPACE,
            "objective": "t/d/valid/loss:min",
            "budget": {"runs": 9},
        }
        | changes
    )


def run(asked: SearchIn, n: int) -> list[Point]:
    """Search for the least learning rate."""
    tried: list[Tried] = []
    for _ in range(n):
        point = Study(asked, tried).propose()
        tried.append(Tried(point, Outcome(state="succeeded", value=point["trainer.lr"])))
    return [trial.point for trial in tried]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_seed_stands_for_its_proposals(sampler: str) -> None:
    asked = search(sampler=sampler, seed=1)
    first = run(asked, 14)
    assert run(asked, 14) == first
    assert run(search(sampler=sampler, seed=2), 14) != first
    assert len({point["trainer.lr"] for point in first}) == 14
    for point in first:
        assert 1e-4 <= point["trainer.lr"] <= 1
        assert point["trainer.batch_size"] in range(8, 65, 8)
        assert any(point["trainer.l2"] == pytest.approx(step) for step in (0.0, 0.3, 0.6, 0.9))
        params = params_of(asked.space, point)
        assert params["trainer.optimizer"] in ("sgd", "adam")
        assert trainer_with(RunTrainerConfig(), params).lr == point["trainer.lr"]


def test_proposals_come_to_lie_where_values_are_good() -> None:
    lrs = [point["trainer.lr"] for point in run(search(), 40)]
    assert sum(lrs[-15:]) < sum(lrs[:15]) / 5


def test_trials_are_judged_by_those_that_ended() -> None:
    space = {"trainer.lr": SPACE["trainer.lr"]}
    point: Point = {"trainer.lr": 0.1}

    def ended(*values: float) -> Tried:
        return Tried(point, Outcome(state="succeeded", value=values[-1], values=dict(enumerate(values, 1))))

    asked = search(space=space, pruner={"type": "percentile", "startup_trials": 3, "warmup_epochs": 2})
    few = Study(asked, [ended(3.0, 2.0, 1.0)] * 2)
    assert few.rejects_at(point, {1: 9.0, 2: 9.0, 3: 9.0}) is None
    study = Study(asked, [ended(3.0, 2.0, 1.0)] * 3)
    assert study.rejects_at(point, {1: 9.0}) is None
    assert study.rejects_at(point, {1: 9.0, 2: 9.0, 3: 9.0}) == 2
    assert study.rejects_at(point, {1: 9.0, 2: 1.9, 3: 0.9}) is None
    assert study.rejects_at(point, {1: 9.0, 2: 9.0}, after=2) is None
    assert study.rejects_at(point, {}) is None
    # Of those that were pruned or failed, none counts.
    others = [
        Tried(point, Outcome(state="pruned", value=3.0, epoch=1, values={1: 3.0})),
        Tried(point, Outcome(state="failed")),
        Tried(point, None),
    ]
    assert Study(asked, [ended(3.0, 2.0, 1.0)] * 2 + others).rejects_at(point, {2: 9.0}) is None
    assert Study(search(space=space, pruner="none"), [ended(1.0)] * 9).rejects_at(point, {1: 9.0}) is None


@pytest.mark.parametrize(
    ("high", "last"), [(0.9, 0.9), (1.0, 0.9), (1.19, 0.9), (1.2, 1.2), (0.0, 0.0), (0.2, 0.0)]
)
def test_a_stepped_range_ends_with_its_last_step(high: float, last: float) -> None:
    assert highest(FloatRange(type="float", low=0.0, high=high, step=0.3)) == last


def test_every_bound_and_choice_is_tried_and_something_between() -> None:
    assert [where for where, _ in probes(DIMENSION.validate_python(SPACE["trainer.lr"]))] == [
        ("low",),
        ("high",),
        (),
    ]
    assert [value for _, value in probes(DIMENSION.validate_python(SPACE["trainer.optimizer"]))] == [
        "sgd",
        "adam",
    ]
    assert [value for _, value in probes(IntRange(type="int", low=1, high=9))] == [1, 9]
    assert [value for _, value in probes(FloatRange(type="float", low=1e-90, high=1e90, log=True))][2] == (
        pytest.approx(1)
    )


def test_parameters_go_where_their_keys_say() -> None:
    base = RunTrainerConfig.model_validate({"lr": 0.5, "module_lrs": {"a": 1.0}})
    params = {
        "trainer.optimizer_config.adam_config.betas": [0.5, 0.6],
        "trainer.module_lrs.b.c": 2.0,
        "trainer.module_lrs.a": 3.0,
        "architecture.layers": [4],
    }
    settings = trainer_with(base, params)
    assert settings.optimizer_config.adam_config.betas == (0.5, 0.6)
    assert settings.module_lrs == {"a": 3.0, "b.c": 2.0}
    assert (settings.lr, base.module_lrs) == (0.5, {"a": 1.0})
    assert architecture_of(params) == {"layers": [4]}
    for key in ("trainer.nothing", "trainer.lr.nothing", "trainer.checkpointer_config.checkpoint_dir"):
        with pytest.raises(Invalid):
            trainer_with(base, {key: "x"})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"low": 2.0}, "above high"),
        ({"low": 0.0}, "above 0"),
        ({"step": 0.1}, "do not go together"),
        ({"high": float("inf")}, "or equal to"),
        ({"low": float("nan")}, "or equal to"),
        ({"log": False, "step": 1e-20}, "too small"),
        ({"low": True}, "valid number"),
    ],
)
def test_ranges_that_are_none(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        DIMENSION.validate_python(SPACE["trainer.lr"] | changes)


def test_a_long_training_keeps_few_values() -> None:
    assert sum(map(is_judged, range(100_001))) < 400
    assert all(map(is_judged, range(100)))
