from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import SpecError
from mtl_core.building.tasks import Limits, check_task
from mtl_core.losses import LOSSES
from mtl_core.modules import MODULES, build_module, canonical_module, count_layers
from mtl_core.outputs import OUTPUTS
from mtl_core.scoring.metrics import METRICS
from mtl_core.specs import TaskSpec

from .cases import CASES, Case, N

LINEAR = {"type": "Linear", "in_features": 2, "out_features": 3}
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)


def path_through(case: Case) -> dict[str, Any]:
    """A task that runs one module on its inputs and flattens what it answers."""
    fields = [f"x{i}" for i in range(len(case.shapes))]
    answer = "m" if case.alone else ["m", 0]
    return {
        "name": "t",
        "module_pool": {"m": case.spec, "tail": {"type": "Identity"}},
        "op_sequence": [
            {"module_name": "m", "inputs": [["_input_", name] for name in fields]},
            {"module_name": "tail", "inputs": [answer]},
        ],
        "inputs": {n: {"shape": s, "dtype": case.dtype} for n, s in zip(fields, case.shapes, strict=True)},
        "loss": "mse",
        "output": "identity",
        "metrics": ["mse"],
    }


def test_there_is_a_case_for_every_module_type() -> None:
    # An embedding without rows cannot run.
    assert sorted([*(case.type for case in CASES), "LazyEmbedding"]) == sorted(MODULES.entries)


def test_a_lazy_embedding_is_built_but_does_not_run() -> None:
    lazy = build_module({"type": "LazyEmbedding", "embedding_dim": 2})
    with pytest.raises(ValueError, match="its task must be resolved first"):
        lazy(torch.zeros(3, 1, dtype=torch.int64))


@cases
def test_every_module_type_is_built_and_runs(case: Case) -> None:
    module = build_module(case.spec)
    outputs = module(*case.inputs())
    output = outputs if case.alone else outputs[0]
    assert output.shape[0] == N
    assert bool(output.isfinite().all())


@cases
def test_the_dry_run_foretells_the_real_runs_shape(case: Case) -> None:
    report = check_task(TaskSpec.model_validate(path_through(case)), Limits())
    outputs = build_module(case.spec)(*case.inputs())
    output = outputs if case.alone else outputs[0]
    assert report.output_shape == list(output.shape[1:])
    assert report.activations is not None
    assert report.activations >= 0


@cases
def test_canonical_specs_are_json_build_the_same_and_are_their_own_canon(case: Case) -> None:
    canonical = canonical_module(case.spec)
    assert json.loads(json.dumps(canonical)) == canonical
    assert canonical_module(canonical) == canonical
    assert repr(build_module(canonical)) == repr(build_module(case.spec))


@pytest.mark.parametrize("catalogue", [MODULES, LOSSES, OUTPUTS, METRICS], ids=lambda c: c.kind)
def test_every_entry_describes_itself(catalogue: Any) -> None:
    described = catalogue.describe()
    assert [entry["type"] for entry in described] == sorted(catalogue.entries)
    json.dumps(described)
    for entry in described:
        assert len(entry["summary"]) > 15, entry
        assert not entry["summary"].startswith("__init__"), entry
        assert not set("\\`") & set(re.sub(r"`\w+`", "", entry["summary"])), entry
        assert entry["arguments"]["additionalProperties"] is False


def test_containers_nest_and_keep_their_order() -> None:
    module = build_module(
        {
            "type": "Sequential",
            "layers": [LINEAR, {"type": "Residual", "layers": [{"type": "Tanh"}]}, {"type": "ReLU"}],
        }
    )
    assert isinstance(module, nn.Sequential)
    assert [type(layer).__name__ for layer in module] == ["Linear", "Residual", "ReLU"]


def test_equal_specs_have_one_canon_however_they_are_written() -> None:
    assert canonical_module(LINEAR) == canonical_module({**LINEAR, "bias": True})
    assert canonical_module(LINEAR) != canonical_module({**LINEAR, "bias": False})
    assert canonical_module({"type": "Sequential", "layers": [LINEAR]}) == {
        "type": "Sequential",
        "layers": [{**LINEAR, "bias": True}],
    }


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "MultiheadAttention", "TransformerEncoderLayer"])
def test_batches_always_come_first(name: str) -> None:
    (case,) = (case for case in CASES if case.type == name)
    with pytest.raises(SpecError, match="batch_first"):
        build_module({**case.spec, "batch_first": False})


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"type": "Linear", "in_features": 2}, "/out_features"),
        ({"type": "Linear", "in_features": "2", "out_features": 3}, "/in_features"),
        ({"type": "Linear", "in_features": True, "out_features": 3}, "/in_features"),
        ({"type": "Linear", "in_features": 2.5, "out_features": 3}, "/in_features"),
        ({"type": "Linear", "in_features": 0, "out_features": 3}, "/in_features"),
        ({"type": "Linear", "in_features": 10**30, "out_features": 3}, "/in_features"),
        ({**LINEAR, "device": "cuda"}, "/device"),
        ({**LINEAR, "bias": 1}, "/bias"),
        ({**LINEAR, "__class__": "x"}, "/__class__"),
        ({"type": "ReLU", "inplace": True}, "/inplace"),
        ({"type": "Softmax", "dim": 0}, "/dim"),
        ({"type": "Dropout", "p": float("nan")}, "/p"),
        ({"type": "Dropout", "p": float("inf")}, "/p"),
        ({"type": "Dropout", "p": 1e300}, "/p"),
        ({"type": "Dropout", "p": -0.5}, ""),
        ({"type": "Linearr"}, "/type"),
        ({"type": ["Linear"]}, "/type"),
        ({"type": None}, "/type"),
        ({"type": "__init__"}, "/type"),
        ({"type": "__class__"}, "/type"),
        ({"type": "Module"}, "/type"),
        ({"type": "ModuleList"}, "/type"),
        ({"type": "Líneär\ud800"}, "/type"),
        ({}, "/type"),
        ([], ""),
        (None, ""),
        (7, ""),
        ({"type": "Sequential", "layers": []}, "/layers"),
        ({"type": "Sequential", "layers": [LINEAR, {"type": "Linear"}]}, "/layers/1/in_features"),
        ({"type": "Sequential", "layers": ["ReLU", 3]}, "/layers"),
        (
            {"type": "Residual", "layers": [{"type": "Residual", "layers": [{"type": "Nope"}]}]},
            "/layers/0/layers/0/type",
        ),
        ({"type": "TransformerEncoder", "encoder_layer": LINEAR, "num_layers": 1}, ""),
        ({"type": "MultiheadAttention", "embed_dim": 5, "num_heads": 2}, ""),
        ({"type": "GroupNorm", "num_groups": 3, "num_channels": 4}, ""),
        ({"type": "Permute", "dims": [1, 1]}, ""),
    ],
)
def test_wrong_specs_are_refused_where_they_are_wrong(spec: Any, pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_module(spec)
    assert caught.value.faults[0].pointer == pointer
    str(caught.value).encode()


def test_every_wrong_argument_is_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        build_module({"type": "Linear", "out_features": "3", "color": "red"}, "/module_pool/a")
    assert sorted(fault.pointer for fault in caught.value.faults) == [
        "/module_pool/a/color",
        "/module_pool/a/in_features",
        "/module_pool/a/out_features",
    ]


def test_nesting_is_bounded() -> None:
    spec: dict[str, Any] = LINEAR
    for _ in range(40):
        spec = {"type": "Sequential", "layers": [spec]}
    with pytest.raises(SpecError, match="nested more than 32 deep"):
        build_module(spec)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (LINEAR, 1),
        ({"type": "Sequential", "layers": [LINEAR] * 5}, 6),
        ({"type": "GRU", "num_layers": 4}, 4),
        ({"type": "GRU", "num_layers": 4, "bidirectional": True}, 8),
        (
            {
                "type": "TransformerEncoder",
                "num_layers": 2,
                "encoder_layer": {"type": "TransformerEncoderLayer"},
            },
            18,
        ),
        ({"type": "GRU", "num_layers": 10**9}, 1),
        ({"type": "GRU", "num_layers": "4"}, 1),
        ("Linear", 0),
    ],
)
def test_layers_are_counted_before_anything_is_built(spec: Any, count: int) -> None:
    assert count_layers(spec, 1000) == count
