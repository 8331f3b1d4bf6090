"""Experts side by side and the gate that mixes them: formulas, seeds, sizes that come with the data, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtl_core import SpecError
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import (
    Limits,
    build_tasks,
    canonical_task,
    check_shared_modules,
    check_task,
    resolve_task,
)
from mtl_core.modules import build_module, canonical_module, count_layers, lazy_layers
from mtl_core.modules.experts import Experts, Gate
from mtl_core.specs import TaskSpec

LAZY_LINEAR: dict[str, Any] = {"type": "LazyLinear", "out_features": 4}
LINEAR: dict[str, Any] = {"type": "Linear", "in_features": 3, "out_features": 4}
FIELDS = {"x": FieldShape([3], "float32")}


def experts(n: int, *layers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Experts", "n_experts": n, "layers": list(layers)}


def mixture(of: dict[str, Any], **modules: Any) -> TaskSpec:
    """A task of three experts, a gate and a head."""
    pool = {
        "experts": of,
        "gate": {"type": "LazyGate", "n_experts": 3},
        "head": {"type": "LazyLinear", "out_features": 1},
    }
    path = [
        {"module_name": "experts", "inputs": [["_input_", "x"]]},
        {"module_name": "gate", "inputs": [["_input_", "x"], "experts"]},
        {"module_name": "head", "inputs": ["gate"]},
    ]
    return TaskSpec.model_validate(
        {"name": "t", "kind": "binary", "module_pool": pool | modules, "op_sequence": path}
    )


class TestExperts:
    def test_each_applies_a_stack_of_its_own(self) -> None:
        module = build_module(experts(3, LINEAR, {"type": "ReLU"}))
        assert isinstance(module, Experts)
        x = torch.randn(5, 3)
        answers = module(x)
        assert answers.shape == (5, 3, 4)
        for i, expert in enumerate(module.experts):
            assert torch.equal(answers[:, i], expert(x))
        assert not torch.allclose(answers[:, 0], answers[:, 1])

    def test_layers_that_cannot_be_reset_start_differently_too(self) -> None:
        encoder = {"type": "TransformerEncoderLayer", "d_model": 4, "nhead": 2, "dim_feedforward": 8}
        module = build_module(experts(2, experts(2, encoder)))
        first, *others = [p for name, p in module.named_parameters() if name.endswith("in_proj_weight")]
        assert len(others) == 3
        assert not any(torch.equal(first, other) for other in others)

    def test_the_same_seed_gives_the_same_weights(self) -> None:
        spec = resolve_task(mixture(experts(3, LAZY_LINEAR)), FIELDS, Limits())
        first, second, other = (
            build_tasks([spec], seed=seed)[0].module_pool["experts"].state_dict() for seed in (7, 7, 8)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)

    def test_experts_that_answer_no_tensor_are_refused(self) -> None:
        spec = mixture(experts(3, {"type": "GRU", "input_size": 3, "hidden_size": 4}))
        with pytest.raises(SpecError) as caught:
            check_task(spec, Limits(), {"x": FieldShape([5, 3], "float32")})
        assert caught.value.faults[0].pointer == "/op_sequence/0"

    @pytest.mark.parametrize(
        ("spec", "pointer"),
        [
            (experts(0, LINEAR), "/n_experts"),
            (experts(257, LINEAR), "/n_experts"),
            (experts(True, LINEAR), "/n_experts"),
            (experts(2), "/layers"),
            (experts(2, LINEAR, {"type": "Linear", "in_features": 4}), "/layers/1/out_features"),
            (experts(2, {"type": "GroupNorm", "num_groups": 3, "num_channels": 4}), "/layers/0"),
        ],
    )
    def test_wrong_specs_are_refused_where_they_are_wrong(self, spec: Any, pointer: str) -> None:
        with pytest.raises(SpecError) as caught:
            build_module(spec)
        assert caught.value.faults[0].pointer == pointer


class TestSizes:
    def test_lazy_layers_are_named_once_and_settle_in_every_expert(self) -> None:
        spec = mixture(experts(3, LAZY_LINEAR, {"type": "ReLU"}, {"type": "LazyLinear", "out_features": 2}))
        resolved = resolve_task(spec, FIELDS, Limits())
        first, _, last = resolved.module_pool["experts"]["layers"]
        assert (first["type"], first["in_features"]) == ("Linear", 3)
        assert (last["type"], last["in_features"]) == ("Linear", 4)
        assert resolved.module_pool["gate"] == {"type": "Gate", "in_features": 3, "n_experts": 3}
        assert resolved.module_pool["head"]["in_features"] == 2
        assert lazy_layers(resolved.module_pool["experts"]) == {}
        (task,) = build_tasks([resolved])
        assert task.module_pool["experts"](torch.zeros(5, 3)).shape == (5, 3, 2)

    def test_nested_experts_settle_too(self) -> None:
        spec = mixture(experts(3, experts(2, LAZY_LINEAR), {"type": "LazyLinear", "out_features": 5}))
        layers = resolve_task(spec, FIELDS, Limits()).module_pool["experts"]["layers"]
        assert layers[0]["layers"][0]["in_features"] == 3
        assert layers[1]["in_features"] == 4

    def test_equal_specs_are_one_module_however_they_are_written(self) -> None:
        written_out = experts(3, {**LAZY_LINEAR, "bias": True})
        assert canonical_module(experts(3, LAZY_LINEAR)) == written_out
        check_shared_modules([mixture(experts(3, LAZY_LINEAR)), mixture(written_out)])
        canonical = canonical_task(mixture(experts(3, LAZY_LINEAR)))
        assert canonical_task(TaskSpec.model_validate(canonical)) == canonical
        with pytest.raises(SpecError, match="n_experts is 3, but the inputs have 2 experts"):
            check_task(mixture(experts(2, LAZY_LINEAR)), Limits(), FIELDS)

    def test_numbers_and_layers_count_once_for_each_expert(self) -> None:
        assert count_layers(experts(3, LINEAR, {"type": "ReLU"}), 100) == 9
        assert count_layers(experts(3, experts(5, LINEAR)), 100) == 3 + 15 + 15
        assert count_layers(experts(256, *[LINEAR] * 8), 100) > 100
        assert count_layers({"type": "Experts", "n_experts": "3", "layers": [LINEAR]}, 100) == 2
        spec = mixture(experts(3, LINEAR))
        assert check_task(spec, Limits()).parameters["experts"] == 3 * 16
        assert check_task(spec, Limits(max_parameters=70), FIELDS).parameters["gate"] == 9
        with pytest.raises(SpecError, match="48 of them here"):
            check_task(spec, Limits(max_parameters=61), FIELDS)
        with pytest.raises(SpecError, match="more than 7 layers"):
            check_task(spec, Limits(max_layers=7))


class TestGate:
    def test_it_mixes_all_experts_by_a_softmax_of_a_linear_map(self) -> None:
        gate = Gate(3, 5)
        x, own, shared = torch.randn(4, 3), torch.randn(4, 2, 6), torch.randn(4, 3, 6)
        scores = x.numpy() @ gate.weight.detach().numpy().T
        weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        answers = np.concatenate([own.numpy(), shared.numpy()], axis=1)
        expected = (weights[:, :, None] * answers).sum(axis=1)
        np.testing.assert_allclose(gate(x, own, shared).detach().numpy(), expected, rtol=1e-5, atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 2**31 - 1))
    def test_equal_experts_come_through_whatever_their_number(
        self, n: int, counts: list[int], seed: int
    ) -> None:
        """So one expert is answered as it is, and weights sum to 1."""
        torch.manual_seed(seed)
        x, answer = torch.randn(n, 3), torch.randn(n, 1, 2)
        mixed = Gate(3, sum(counts))(x, *(answer.expand(n, count, 2) for count in counts))
        assert torch.allclose(mixed, answer[:, 0], atol=1e-5)

    def test_experts_may_answer_more_dimensions(self) -> None:
        gate, x, images = Gate(3, 2), torch.randn(4, 3), torch.randn(4, 2, 5, 6, 6)
        flat = gate(x, images.flatten(2))
        assert torch.allclose(gate(x, images), flat.unflatten(1, (5, 6, 6)), atol=1e-6)

    def test_gradients_reach_input_gate_and_every_expert(self) -> None:
        gate = Gate(3, 5)
        x, answers = torch.randn(4, 3, requires_grad=True), torch.randn(4, 5, 2, requires_grad=True)
        gate(x, answers).square().sum().backward()
        for tensor in (x, answers, gate.weight):
            assert tensor.grad is not None
            assert bool((tensor.grad != 0).all())

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (((4, 2), (4, 5, 6)), r"Gate works on \[batch, 3\], not \[4, 2\]"),
            (((4, 7, 3), (4, 5, 6)), r"Gate works on \[batch, 3\], not \[4, 7, 3\]"),
            (((4, 3), (4, 6)), "n_experts is 5, but the inputs have 6 experts"),
            (
                ((4, 3), (4, 2, 6), (4, 3, 7)),
                r"experts \[experts, …\] of one shape, not \[2, 6\] and \[3, 7\]",
            ),
            (((4, 3),), "n_experts is 5, but the inputs have 0 experts"),
        ],
    )
    def test_inputs_that_do_not_suit_are_refused(self, inputs: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Gate(3, 5)(*map(torch.zeros, inputs))

    def test_indices_are_refused(self) -> None:
        with pytest.raises(ValueError, match="Gate works on float32, not int64"):
            Gate(3, 1)(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 1, 2))

    def test_experts_of_any_modules_do_in_the_library(self) -> None:
        module = Experts([nn.Identity(), nn.Tanh()])
        assert module(torch.ones(2, 3)).shape == (2, 2, 3)
