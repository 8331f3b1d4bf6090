"""Lazy twins: they become the plain module at their first input, and specs settle to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, resolve_task
from mtl_core.modules import build_module, canonical_module
from mtl_core.modules.lazy import PLAIN
from mtl_core.modules.sized import OpenSize
from mtl_core.specs import TaskSpec

from .cases import CASES, Case

LAZY = [case for case in CASES if isinstance(build_module(case.spec), OpenSize)]
twins = pytest.mark.parametrize("case", LAZY, ids=lambda case: case.type)


def plain_spec(case: Case) -> dict[str, Any]:
    plain, argument = PLAIN[case.type]
    return canonical_module({"type": plain, argument: 4} | case.arguments)


def test_there_are_twins() -> None:
    assert {case.type for case in LAZY} >= {"LazyGate", "LazyDSelectK", "LazyAdapter", "LazyAttentionPooling"}


@twins
def test_the_first_input_makes_it_the_plain_module(case: Case) -> None:
    lazy, plain = build_module(case.spec), build_module(plain_spec(case))
    held = list(lazy.parameters())
    inputs = case.inputs()
    lazy(*inputs)
    assert type(lazy) is type(plain)
    assert repr(lazy) == repr(plain)
    # An optimizer that was given the parameters before goes on with them.
    assert all(a is b for a, b in zip(held, lazy.parameters(), strict=True))
    plain.load_state_dict(lazy.state_dict())
    assert torch.equal(lazy(*inputs), plain(*inputs))


@twins
def test_a_task_is_resolved_to_the_plain_spec(case: Case) -> None:
    fields = [f"x{i}" for i in range(len(case.shapes))]
    spec = TaskSpec.model_validate(
        {
            "name": "t",
            "module_pool": {"m": case.spec},
            "op_sequence": [{"module_name": "m", "inputs": [["_input_", name] for name in fields]}],
            "loss": "mse",
            "output": "identity",
            "metrics": ["mse"],
        }
    )
    known = {name: FieldShape(shape, "float32") for name, shape in zip(fields, case.shapes, strict=True)}
    assert resolve_task(spec, known, Limits()).module_pool["m"] == plain_spec(case)
