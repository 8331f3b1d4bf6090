"""Smallest arguments and suitable inputs for every module type of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

N = 3
"""Examples in a batch."""


@dataclass(frozen=True)
class Case:
    """A module type with arguments it can be built with, and inputs it can be called on."""

    type: str
    arguments: dict[str, Any]
    shapes: list[list[int]]
    dtype: str = "float32"
    alone: bool = True
    spec: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", {"type": self.type, **self.arguments})

    def inputs(self, n: int = N, device: str = "cpu") -> list[torch.Tensor]:
        if self.dtype == "int64":
            return [torch.ones((n, *shape), dtype=torch.int64, device=device) for shape in self.shapes]
        return [torch.rand((n, *shape), device=device) for shape in self.shapes]


_LINEAR = {"type": "Linear", "in_features": 4, "out_features": 4}
_LAZY_LINEAR = {"type": "LazyLinear", "out_features": 4}
_ENCODER_LAYER = {"type": "TransformerEncoderLayer", "d_model": 4, "nhead": 2, "dim_feedforward": 8}
_VECTOR, _SEQUENCE, _IMAGE, _VOLUME = [4], [4, 6], [4, 6, 6], [4, 6, 6, 6]
_BY_DIMENSION = {1: _SEQUENCE, 2: _IMAGE, 3: _VOLUME}


_ACTIVATIONS = (  # noqa: SIM905 One string reads better than a line for each.
    "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Sigmoid LogSigmoid Tanh "
    "Tanhshrink Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink GLU Softmax Softmin LogSoftmax"
).split()


def _per_dimension(
    prefix: str, arguments: dict[str, Any], dimensions: tuple[int, ...] = (1, 2, 3)
) -> list[Case]:
    return [Case(f"{prefix}{d}d", arguments, [_BY_DIMENSION[d]]) for d in dimensions]


def _sized(type_: str, arguments: dict[str, Any], shapes: list[list[int]]) -> list[Case]:
    """A type with the size of its first input given, and its lazy twin."""
    return [Case(type_, {"in_features": 4} | arguments, shapes), Case(f"Lazy{type_}", arguments, shapes)]


CASES = [
    Case("Linear", {"in_features": 4, "out_features": 2}, [_VECTOR]),
    Case("Bilinear", {"in1_features": 4, "in2_features": 4, "out_features": 2}, [_VECTOR, _VECTOR]),
    Case("Identity", {}, [_VECTOR]),
    Case("Flatten", {}, [_IMAGE]),
    Case("Unflatten", {"dim": 1, "unflattened_size": [2, 2]}, [_VECTOR]),
    Case("Unfold", {"kernel_size": 2}, [_IMAGE]),
    Case("Fold", {"output_size": 3, "kernel_size": 2}, [[8, 4]]),
    *_per_dimension("Conv", {"in_channels": 4, "out_channels": 2, "kernel_size": 3}),
    *_per_dimension("ConvTranspose", {"in_channels": 4, "out_channels": 2, "kernel_size": 3}),
    *_per_dimension("BatchNorm", {"num_features": 4}),
    *_per_dimension("InstanceNorm", {"num_features": 4}),
    Case("LayerNorm", {"normalized_shape": 4}, [_VECTOR]),
    Case("RMSNorm", {"normalized_shape": [4]}, [_VECTOR]),
    Case("GroupNorm", {"num_groups": 2, "num_channels": 4}, [_SEQUENCE]),
    Case("LocalResponseNorm", {"size": 2}, [_IMAGE]),
    *(Case(name, {}, [_VECTOR]) for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout")),
    *_per_dimension("Dropout", {}),
    *(Case(name, {}, [_VECTOR]) for name in _ACTIVATIONS),
    Case("Threshold", {"threshold": 0.1, "value": 0.0}, [_VECTOR]),
    Case("Softmax2d", {}, [_IMAGE]),
    Case("Embedding", {"num_embeddings": 5, "embedding_dim": 2}, [[6]], "int64"),
    Case("EmbeddingBag", {"num_embeddings": 5, "embedding_dim": 2}, [[6]], "int64"),
    *(
        Case(name, {"input_size": 6, "hidden_size": 2}, [_SEQUENCE], alone=False)
        for name in ("RNN", "LSTM", "GRU")
    ),
    Case("MultiheadAttention", {"embed_dim": 6, "num_heads": 2}, [_SEQUENCE] * 3, alone=False),
    Case("TransformerEncoderLayer", _ENCODER_LAYER | {"type": "TransformerEncoderLayer"}, [[6, 4]]),
    Case("TransformerEncoder", {"encoder_layer": _ENCODER_LAYER, "num_layers": 2}, [[6, 4]]),
    *_per_dimension("MaxPool", {"kernel_size": 2}),
    *_per_dimension("AvgPool", {"kernel_size": 2}),
    *_per_dimension("LPPool", {"norm_type": 2, "kernel_size": 2}, (1, 2)),
    *_per_dimension("AdaptiveAvgPool", {"output_size": 2}),
    *_per_dimension("AdaptiveMaxPool", {"output_size": 2}),
    *_per_dimension("ZeroPad", {"padding": 1}),
    *_per_dimension("ConstantPad", {"padding": 1, "value": 0.5}),
    *_per_dimension("ReflectionPad", {"padding": 1}, (1, 2)),
    *_per_dimension("ReplicationPad", {"padding": 1}, (1, 2)),
    Case("Upsample", {"scale_factor": 2}, [_IMAGE]),
    Case("PixelShuffle", {"upscale_factor": 2}, [_IMAGE]),
    Case("PixelUnshuffle", {"downscale_factor": 2}, [_IMAGE]),
    Case("ChannelShuffle", {"groups": 2}, [_IMAGE]),
    Case("CosineSimilarity", {}, [_VECTOR, _VECTOR]),
    Case("PairwiseDistance", {}, [_VECTOR, _VECTOR]),
    Case("Sequential", {"layers": [_LINEAR, {"type": "ReLU"}]}, [_VECTOR]),
    Case("Residual", {"layers": [_LINEAR]}, [_VECTOR]),
    *(Case(name, {}, [_VECTOR, _VECTOR]) for name in ("Concat", "Add", "Multiply")),
    Case("Take", {"index": -1}, [_SEQUENCE]),
    Case("Mean", {}, [_SEQUENCE]),
    Case("Permute", {"dims": [2, 1]}, [_SEQUENCE]),
    Case("LazyLinear", {"out_features": 2}, [_VECTOR]),
    *_per_dimension("LazyConv", {"out_channels": 2, "kernel_size": 3}, (1, 2)),
    Case("LazyBatchNorm1d", {}, [_VECTOR]),
    Case("Experts", {"n_experts": 3, "layers": [_LAZY_LINEAR, {"type": "ReLU"}]}, [_VECTOR]),
    *_sized("Gate", {"n_experts": 5}, [_VECTOR, [3, 4], [2, 4]]),
    *_sized("DSelectK", {"n_experts": 5, "k": 2}, [_VECTOR, [3, 4], [2, 4]]),
    *_sized("Adapter", {"bottleneck": 2}, [[6, 4]]),
    *_sized("AttentionPooling", {"heads": 2}, [[6, 4]]),
    Case("InformationTransfer", {"features": 4}, [_VECTOR, _VECTOR]),
    Case("LazyInformationTransfer", {}, [_VECTOR, _VECTOR]),
    Case("CrossStitch", {"n_tasks": 2}, [_VECTOR, _VECTOR], alone=False),
    Case("JointProbability", {}, [[1], [1]]),
    Case("FiLM", {"features": 4, "condition_features": 2}, [_VECTOR, [2]]),
    Case("TaskEmbedding", {"features": 4}, [_VECTOR]),
    Case("Temperature", {"n_classes": 4}, [_IMAGE]),
]
