"""Arguments of module specs, where a torch signature is untyped or allows what a spec must not."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

MAX_STACK = 64
"""How many layers a recurrent or transformer stack may have."""

MAX_EXPERTS = 256
"""How many experts, or other parts of one kind, a module may have side by side."""

# As many as one operation has inputs.
_MAX_TASKS = 64

# Torch takes a kernel or stride of any size, and then spends seconds on it or divides by zero.
_MAX_EXTENT = 1024

# Its outputs are computed one after the other.
_MAX_BILINEAR = 1024


def _not_batch(dim: int) -> int:
    if dim == 0:
        raise ValueError("dimension 0 is the batch")
    return dim


def _known_extents(least: int) -> Any:
    """Return the type of one number for all dimensions, or one for each."""
    number = Annotated[int, Field(strict=True, ge=least, le=_MAX_EXTENT)]
    return number | Annotated[tuple[number, ...], Field(min_length=1, max_length=3)]


_Flag = Annotated[bool, Field(strict=True)]
_Size = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
_OptionalSize = Annotated[int | None, Field(strict=True, ge=1, le=2**31 - 1)]
_Count = Annotated[int, Field(strict=True, ge=1, le=MAX_STACK)]
_Rate = Annotated[float, Field(strict=True, ge=0, le=1)]
_Number = Annotated[float, Field(strict=True, ge=-3.4e38, le=3.4e38)]
_OptionalNumber = Annotated[float | None, Field(strict=True, ge=-3.4e38, le=3.4e38)]
_Positive = Annotated[float, Field(strict=True, gt=0, le=1e30)]
_Dim = Annotated[int, Field(strict=True, ge=-16, le=16), AfterValidator(_not_batch)]
_Shape = _Size | Annotated[list[_Size], Field(min_length=1, max_length=8)]
_Extent, _Margin = _known_extents(1), _known_extents(0)
_OutputSize = _OptionalSize | Annotated[tuple[_OptionalSize, ...], Field(min_length=1, max_length=3)]
_ModuleSpec = Annotated[dict[str, Any], Field(json_schema_extra={"description": "a module spec"})]
_ModuleSpecs = Annotated[list[_ModuleSpec], Field(min_length=1, max_length=1024)]
_Parallel = Annotated[int, Field(strict=True, ge=1, le=MAX_EXPERTS)]
# A gate reads the experts of several modules.
_GatedCount = Annotated[int, Field(strict=True, ge=1, le=MAX_EXPERTS * _MAX_TASKS)]
_BatchFirst = (Literal[True], True)

_SIZES = (  # noqa: SIM905 Eighteen lines of one name each would read no better.
    "in_features out_features in1_features in2_features in_channels out_channels num_features num_channels "
    "num_groups groups num_embeddings embedding_dim d_model nhead dim_feedforward num_parameters "
    "upscale_factor downscale_factor features condition_features bottleneck"
).split()

BY_PARAMETER: dict[str, Any] = {
    **dict.fromkeys(_SIZES, _Size),
    "kernel_size": _Extent,
    "stride": _Extent,
    "dilation": _Extent,
    "output_padding": _Margin,
    "padding_mode": Literal["zeros", "reflect", "replicate", "circular"],
    "normalized_shape": _Shape,
}
"""Types of parameters by name, in whichever module they occur."""

_RECURRENT: dict[str, Any] = {
    "input_size": _Size,
    "hidden_size": _Size,
    "num_layers": (_Count, 1),
    "bias": (_Flag, True),
    "batch_first": _BatchFirst,
    "dropout": (_Rate, 0.0),
    "bidirectional": (_Flag, False),
}

_DSELECT: dict[str, Any] = {
    "n_experts": _GatedCount,
    "k": _Parallel,
    "gamma": Annotated[float, Field(strict=True, ge=1e-3, le=1e3)],
    "entropy_weight": Annotated[float, Field(strict=True, ge=0, le=1e6)],
}

BY_MODULE: dict[str, dict[str, Any]] = {
    "Sequential": {"layers": _ModuleSpecs},
    "Experts": {"n_experts": _Parallel, "layers": _ModuleSpecs},
    **{name: {"n_experts": _GatedCount} for name in ("Gate", "LazyGate")},
    **dict.fromkeys(("DSelectK", "LazyDSelectK"), _DSELECT),
    "CrossStitch": {"n_tasks": Annotated[int, Field(strict=True, ge=2, le=_MAX_TASKS)], "own": _Rate},
    **{
        name: {
            "heads": _Parallel,
            "padding_idx": Annotated[int | None, Field(strict=True, ge=0, le=2**31 - 1)],
        }
        for name in ("AttentionPooling", "LazyAttentionPooling")
    },
    "Residual": {"layers": _ModuleSpecs},
    "TransformerEncoder": {"encoder_layer": _ModuleSpec, "num_layers": _Count},
    "TransformerEncoderLayer": {
        "dropout": _Rate,
        "activation": (Literal["relu", "gelu"], "relu"),
        "batch_first": _BatchFirst,
    },
    "RNN": _RECURRENT | {"nonlinearity": (Literal["tanh", "relu"], "tanh")},
    "LSTM": _RECURRENT | {"proj_size": (Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)], 0)},
    "GRU": _RECURRENT,
    "MultiheadAttention": {
        "embed_dim": _Size,
        "num_heads": _Size,
        "dropout": (_Rate, 0.0),
        "bias": (_Flag, True),
        "add_bias_kv": (_Flag, False),
        "add_zero_attn": (_Flag, False),
        "kdim": (_OptionalSize, None),
        "vdim": (_OptionalSize, None),
        "batch_first": _BatchFirst,
    },
    "Bilinear": {"out_features": Annotated[int, Field(strict=True, ge=1, le=_MAX_BILINEAR)]},
    "Fold": {"output_size": _Size | Annotated[tuple[_Size, _Size], Field()], "padding": _Margin},
    "Unfold": {"padding": _Margin},
    "LocalResponseNorm": {"size": _Size},
    "EmbeddingBag": {"mode": Literal["sum", "mean", "max"]},
    "Upsample": {"mode": Literal["nearest", "linear", "bilinear", "bicubic", "trilinear"]},
    "GELU": {"approximate": Literal["none", "tanh"]},
    "CELU": {"alpha": _Positive},
    "Concat": {"dim": _Dim},
    "Take": {"dim": _Dim},
    "Mean": {"dim": _Dim},
    "Flatten": {"start_dim": _Dim},
    "Unflatten": {"dim": _Dim, "unflattened_size": Annotated[list[_Size], Field(min_length=1, max_length=8)]},
    "CosineSimilarity": {"dim": _Dim},
    "Temperature": {"n_classes": _Size},
    **{name: {"dim": (_Dim, -1)} for name in ("Softmax", "Softmin", "LogSoftmax", "GLU")},
    **{f"Conv{d}d": {"padding": Literal["valid", "same"] | _Margin} for d in (1, 2, 3)},
    **{f"LazyConv{d}d": {"padding": Literal["valid", "same"] | _Margin} for d in (1, 2)},
    "LazyBatchNorm1d": {
        "eps": (_Number, 1e-5),
        "momentum": (_OptionalNumber, 0.1),
        **dict.fromkeys(("affine", "track_running_stats", "bias"), (_Flag, True)),
    },
    **{f"ConvTranspose{d}d": {"padding": _Margin} for d in (1, 2, 3)},
    **{f"{kind}Pool{d}d": {"padding": _Margin} for kind in ("Max", "Avg") for d in (1, 2, 3)},
    **{f"Adaptive{kind}Pool{d}d": {"output_size": _OutputSize} for kind in ("Max", "Avg") for d in (1, 2, 3)},
}
"""Types of one module's arguments, which replace or add to those of its signature; some with a default."""
