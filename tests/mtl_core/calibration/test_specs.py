"""Specs of calibrated tasks: one temperature at the end, under a name that nothing else has."""

from __future__ import annotations

from typing import Any

import pytest

from mtl_core import TaskloomError, calibrated_spec, calibration_obstacle
from mtl_core.building.budget import Limits
from mtl_core.building.tasks import check_task
from mtl_core.specs import TaskSpec

from ..export.models import RIGHT
from ..shapes import shape_spec


def spec_of(**changes: Any) -> TaskSpec:
    return TaskSpec.model_validate(shape_spec("circle", **changes))


def test_a_calibrated_task_ends_in_a_temperature_and_is_else_the_same() -> None:
    spec = spec_of(kind="multiclass")
    calibrated = calibrated_spec(spec, 2)
    assert list(calibrated.module_pool) == [*spec.module_pool, "circle_task_temperature"]
    assert calibrated.module_pool["circle_task_temperature"] == {"type": "Temperature", "n_classes": 2}
    *before, end = calibrated.op_sequence
    assert before == spec.op_sequence
    assert (end.op_name, end.module_name, end.inputs) == (*["circle_task_temperature"] * 2, ["circle_head"])
    same = {"module_pool": spec.module_pool, "op_sequence": spec.op_sequence}
    assert calibrated.model_copy(update=same) == spec
    assert TaskSpec.model_validate(calibrated.written_out()).written_out() == calibrated.written_out()
    report, calibrated_report = check_task(spec, Limits()), check_task(calibrated, Limits())
    assert calibrated_report.output_shape == report.output_shape
    assert calibrated_report.parameters == report.parameters | {"circle_task_temperature": 2}


def test_a_temperature_that_is_there_is_replaced() -> None:
    once = calibrated_spec(spec_of(), 2)
    assert calibrated_spec(once, 2) == once
    assert calibrated_spec(once).module_pool["circle_task_temperature"]["n_classes"] == 1
    # Another task has it too, and keeps it.
    shared = calibrated_spec(once, 2, taken=["circle_task_temperature"])
    assert list(shared.module_pool)[2:] == ["circle_task_temperature_2"]
    assert [op.op_name for op in shared.op_sequence][2:] == ["circle_task_temperature_2"]


def test_a_temperature_that_is_used_before_stays() -> None:
    spec = spec_of()
    pool: dict[str, Any] = spec.module_pool | {"warm": {"type": "Temperature"}}
    ops = [op.model_dump() for op in spec.op_sequence]
    ends = [
        {"name": f"w{i}", "module_name": "warm", "inputs": [at]} for i, at in enumerate(["circle_head", "w0"])
    ]
    calibrated = calibrated_spec(spec_of(module_pool=pool, op_sequence=[*ops, *ends]))
    assert list(calibrated.module_pool) == [*spec.module_pool, "warm", "circle_task_temperature"]
    assert [op.op_name for op in calibrated.op_sequence][2:] == ["w0", "circle_task_temperature"]
    assert calibrated.op_sequence[-1].inputs == ["w0"]


def test_a_path_may_be_nothing_but_a_temperature() -> None:
    spec = TaskSpec.model_validate(
        {
            "name": "t",
            "module_pool": {"m": {"type": "Temperature"}},
            "op_sequence": [{"module_name": "m", "inputs": [["_input_", "x"]]}],
        }
    )
    calibrated = calibrated_spec(spec)
    assert [op.inputs for op in calibrated.op_sequence] == [[("_input_", "x")]]
    assert list(calibrated.module_pool) == ["t_temperature"]


def test_names_are_free_and_no_longer_than_names_may_be() -> None:
    long = spec_of(name="t" * 128)
    (name,) = calibrated_spec(long).module_pool.keys() - long.module_pool.keys()
    assert name == "t" * 116 + "_temperature"
    (other,) = calibrated_spec(long, taken=[name]).module_pool.keys() - long.module_pool.keys()
    assert other == "t" * 114 + "_temperature_2"
    pool = spec_of().module_pool | {"circle_task_temperature": {"type": "ReLU"}}
    assert "circle_task_temperature_2" in calibrated_spec(spec_of(module_pool=pool)).module_pool


@pytest.mark.parametrize("kind", ["multiclass", "binary", {"type": "multilabel", "threshold": 0.3}])
def test_classes_can_be_calibrated(kind: Any) -> None:
    assert calibration_obstacle(spec_of(kind=kind)) is None
    assert calibration_obstacle(calibrated_spec(spec_of(kind=kind))) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        *(
            ({"kind": kind}, f"'{output}' is neither softmax nor sigmoid")
            for kind, output in [
                ("ordinal", "ordinal"),
                ("regression", "identity"),
                ("quantile", "quantiles"),
                ("count", "exp"),
                ("ranking", "identity"),
            ]
        ),
        ({"output": "of one's own"}, "neither softmax nor sigmoid"),
        ({"slices": [RIGHT]}, "it has slices"),
        (
            {"module_pool": spec_of().module_pool | {f"m{i}": {"type": "ReLU"} for i in range(254)}},
            "as many modules",
        ),
    ],
)
def test_others_cannot_and_it_is_said_why(changes: dict[str, Any], why: str) -> None:
    spec = spec_of(**changes)
    assert why in (calibration_obstacle(spec) or "")
    with pytest.raises(TaskloomError, match=f"'circle_task' cannot be calibrated: .*{why}"):
        calibrated_spec(spec)
