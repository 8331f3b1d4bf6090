"""Models of many kinds to be exported, with batches for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter

from mtl_core import MultitaskClassifier
from mtl_core.architectures import Architecture, TaskOutline, expand
from mtl_core.building.fields import FieldShape, FieldShapes
from mtl_core.building.tasks import Limits, build_tasks, check_task, resolve_task, shared_fields
from mtl_core.specs import TaskSpec

from ..architectures.test_expansion import SMALL
from ..modules.cases import CASES, Case
from ..shapes import shape_spec

RIGHT = {"name": "right", "where": {"field": "circle_data", "op": ">", "value": 0, "index": 0}}


@dataclass(frozen=True)
class Exported:
    """Specs with nothing left open, the fields that they read, and a model of them that has trained a little."""

    specs: list[TaskSpec]
    fields: FieldShapes
    model: MultitaskClassifier

    @property
    def tasks(self) -> list[str]:
        return [spec.name for spec in self.specs]

    def batch(self, n: int) -> dict[str, torch.Tensor]:
        made = torch.Generator().manual_seed(n)
        return {name: _numbers(field, n, made) for name, field in self.fields.items()}


def built(specs: list[dict[str, Any] | TaskSpec], fields: Mapping[str, FieldShape] | None = None) -> Exported:
    checked = [TaskSpec.model_validate(spec) for spec in specs]
    known = dict(fields or shared_fields({spec.name: check_task(spec, Limits()) for spec in checked}))
    resolved = [resolve_task(spec, known, Limits()) for spec in checked]
    model = MultitaskClassifier(build_tasks(resolved, seed=1), device="cpu")
    exported = Exported(resolved, known, model)
    # Running means of norms move, and the model stays in training mode.
    model(exported.batch(8), model.task_names)
    return exported


def of_outputs() -> Exported:
    """A trunk with norms, and a task for each output function; names are none that Python has."""
    linear = {"type": "Linear", "in_features": 5, "out_features": 6}
    layers = [
        linear,
        {"type": "BatchNorm1d", "num_features": 6},
        {"type": "ReLU"},
        {"type": "LayerNorm", "normalized_shape": 6},
    ]
    scale, both = {"mean": [300.0], "std": [20.0]}, {"mean": [300.0, -1.0], "std": [20.0, 0.5]}
    ends: dict[str, tuple[int, dict[str, Any]]] = {
        "classes": (3, {}),
        "yes-no": (1, {"kind": "binary"}),
        "many.labels": (4, {"kind": "multilabel"}),
        "grade": (3, {"kind": "ordinal"}),
        "price": (1, {"kind": "regression", "target_scaling": scale}),
        "place": (2, {"kind": "regression", "target_scaling": both}),
        "range": (3, {"kind": "quantile", "target_scaling": scale}),
        "count": (1, {"kind": "count"}),
        "raw": (2, {"loss": "mse", "output": "identity", "metrics": ["mse"]}),
    }
    # A field may be called as torch would call a number on the way.
    path = {"module_name": "trunk.v1", "inputs": [["_input_", "linear"]]}
    return built(
        [
            {
                "name": name,
                "module_pool": {
                    "trunk.v1": {"type": "Sequential", "layers": layers},
                    f"head-{name}": linear | {"in_features": 6, "out_features": n},
                },
                "op_sequence": [path, {"module_name": f"head-{name}", "inputs": ["trunk.v1"]}],
                **rest,
            }
            for name, (n, rest) in ends.items()
        ]
    )


def of_sequences() -> Exported:
    """Words, a signal and an image that meet in two tasks: what is recurrent, attends, or convolves."""
    encoder = {"type": "TransformerEncoderLayer", "d_model": 4, "nhead": 2, "dim_feedforward": 8}
    conv = {"in_channels": 2, "out_channels": 3, "kernel_size": 3}
    flat = {"type": "Flatten"}
    signal_layers = [
        {"type": "Conv1d"} | conv,
        {"type": "ReLU"},
        {"type": "AdaptiveAvgPool1d", "output_size": 1},
        flat,
    ]
    image_layers = [
        {"type": "Conv2d"} | conv,
        {"type": "BatchNorm2d", "num_features": 3},
        {"type": "MaxPool2d", "kernel_size": 2},
        flat,
    ]
    pool: dict[str, Any] = {
        "words": {"type": "Embedding", "num_embeddings": 11, "embedding_dim": 4, "padding_idx": 0},
        "encoder": {"type": "TransformerEncoder", "encoder_layer": encoder, "num_layers": 1},
        "attend": {"type": "MultiheadAttention", "embed_dim": 4, "num_heads": 2},
        "lstm": {"type": "LSTM", "input_size": 4, "hidden_size": 3},
        "gru": {"type": "GRU", "input_size": 3, "hidden_size": 3},
        "last": {"type": "Take", "index": -1},
        "pool": {"type": "AttentionPooling", "in_features": 4},
        "signal": {"type": "Sequential", "layers": signal_layers},
        "image": {"type": "Sequential", "layers": image_layers},
        "together": {"type": "Concat"},
    }
    path: list[dict[str, Any]] = [
        {"module_name": "words", "inputs": [["_input_", "text"]]},
        {"module_name": "encoder", "inputs": ["words"]},
        {"module_name": "attend", "inputs": ["encoder", "encoder", "words"]},
        {"module_name": "lstm", "inputs": [["attend", 0]]},
        {"module_name": "gru", "inputs": [["lstm", 0]]},
        {"module_name": "last", "inputs": [["gru", 0]]},
        {"module_name": "pool", "inputs": ["encoder"]},
        {"module_name": "signal", "inputs": [["_input_", "signal"]]},
        {"module_name": "image", "inputs": [["_input_", "image"]]},
        {"module_name": "together", "inputs": ["last", "pool", "signal", "image"]},
    ]
    fields = {
        "text": FieldShape([5], "int64", vocabulary=11),
        "signal": FieldShape([2, 7], "float32"),
        "image": FieldShape([2, 6, 6], "float32"),
    }
    return built(
        [
            {
                "name": name,
                "module_pool": pool | {f"{name}_head": {"type": "LazyLinear", "out_features": 3}},
                "op_sequence": [*path, {"module_name": f"{name}_head", "inputs": ["together"]}],
            }
            for name in ("topic", "mood")
        ],
        fields,
    )


def of_architecture(kind: str) -> Callable[[], Exported]:
    def make() -> Exported:
        is_text = kind == "attention_pooling"
        form = {"type": kind, "inputs": ["ids" if is_text else "x"], "norm": "batch"} | SMALL[kind]
        architecture: Architecture = TypeAdapter(Architecture).validate_python(form)
        outlines = [TaskOutline.model_validate({"name": name, "kind": "binary"}) for name in "abc"]
        field = FieldShape([5], "int64", vocabulary=7) if is_text else FieldShape([3], "float32")
        return built([*expand(architecture, outlines)], {"ids" if is_text else "x": field})

    return make


def of_slices() -> Exported:
    return built([shape_spec("circle", slices=[RIGHT]), shape_spec("square")])


def of_catalogue(cases: list[Case]) -> Exported:
    """A task for each of some module types."""
    specs: list[dict[str, Any] | TaskSpec] = []
    fields: FieldShapes = {}
    for case in cases:
        own = [f"{case.type}_{i}" for i in range(len(case.shapes))]
        vocabulary = 5 if case.dtype == "int64" else None
        fields |= {
            name: FieldShape(shape, case.dtype, vocabulary=vocabulary)  # type: ignore[arg-type]
            for name, shape in zip(own, case.shapes, strict=True)
        }
        specs.append(
            {
                "name": case.type,
                "module_pool": {case.type: case.spec, "tail": {"type": "Identity"}},
                "op_sequence": [
                    {"module_name": case.type, "inputs": [["_input_", name] for name in own]},
                    {"module_name": "tail", "inputs": [case.type if case.alone else [case.type, 0]]},
                ],
                **{"loss": "mse", "output": "identity", "metrics": ["mse"]},
            }
        )
    return built(specs, fields)


NOT_IN_ONNX = ["AdaptiveAvgPool3d"]
"""Types that torch's exporter has no ONNX for."""

MODELS: dict[str, Callable[[], Exported]] = {
    "outputs": of_outputs,
    "sequences": of_sequences,
    "slices": of_slices,
    **{kind: of_architecture(kind) for kind in SMALL},
    "catalogue": lambda: of_catalogue([case for case in CASES if case.type not in NOT_IN_ONNX]),
}


def _numbers(field: FieldShape, n: int, made: torch.Generator) -> torch.Tensor:
    shape = (n, *(field.shape or []))
    if field.dtype == "int64":
        return torch.randint(field.vocabulary or 1, shape, generator=made)
    return torch.randn(shape, generator=made)
