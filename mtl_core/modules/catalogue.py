"""Module specs → ``torch.nn`` modules: the allowlist of layers, and containers nested at will.

Batches come first everywhere in Taskloom, so recurrent and attention layers are always ``batch_first`` and no
module may work along dimension 0, where it would mix examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from mtl_core.catalogue import Catalogue, as_json
from mtl_core.errors import SpecError
from mtl_core.modules.arguments import BY_MODULE, BY_PARAMETER, MAX_EXPERTS, MAX_STACK
from mtl_core.modules.combine import Add, Concat, Multiply, Residual
from mtl_core.modules.conditioning import Adapter, FiLM, LazyAdapter, TaskEmbedding
from mtl_core.modules.coupling import (
    CrossStitch,
    InformationTransfer,
    JointProbability,
    LazyInformationTransfer,
)
from mtl_core.modules.dselect import DSelectK, LazyDSelectK
from mtl_core.modules.experts import Experts, Gate, LazyGate
from mtl_core.modules.lazy import PLAIN, LazyEmbedding
from mtl_core.modules.pooling import AttentionPooling, LazyAttentionPooling
from mtl_core.modules.shape import Mean, Permute, Take
from mtl_core.modules.temperature import Temperature

MAX_DEPTH = 32
"""How deep module specs may nest."""

_TORCH_LAYERS = (  # noqa: SIM905 One string in groups reads better than a hundred lines of one name each.
    # linear and shape
    "Linear Bilinear Identity Flatten Unflatten Unfold Fold "
    # convolution
    "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d "
    # normalisation
    "BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d "
    "LayerNorm RMSNorm GroupNorm LocalResponseNorm "
    # dropout
    "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout "
    # activation
    "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Sigmoid LogSigmoid "
    "Tanh Tanhshrink Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink Threshold GLU "
    "Softmax Softmin LogSoftmax Softmax2d "
    # embedding
    "Embedding EmbeddingBag "
    # recurrent, attention, transformer
    "RNN LSTM GRU MultiheadAttention TransformerEncoderLayer "
    # pooling
    "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d "
    "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d "
    "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d "
    # padding and resampling
    "ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d "
    "ReflectionPad1d ReflectionPad2d ReplicationPad1d ReplicationPad2d "
    "Upsample PixelShuffle PixelUnshuffle ChannelShuffle CosineSimilarity PairwiseDistance "
    # sizes that come with the data
    "LazyLinear LazyConv1d LazyConv2d LazyBatchNorm1d"
).split()


_TRANSFORMER_LAYERS = 8
_CHILDREN = {
    "Sequential": "layers",
    "Residual": "layers",
    "TransformerEncoder": "encoder_layer",
    "Experts": "layers",
}


_Builder = Callable[[], nn.Module]


def _sequential(layers: list[nn.Module]) -> nn.Module:
    """Apply layers one after the other."""
    return nn.Sequential(*layers)


def _transformer_encoder(encoder_layer: nn.Module, num_layers: int) -> nn.Module:
    """Apply a stack of copies of one TransformerEncoderLayer."""
    if not isinstance(encoder_layer, nn.TransformerEncoderLayer):
        raise ValueError("encoder_layer must be a TransformerEncoderLayer")
    return nn.TransformerEncoder(encoder_layer, num_layers, enable_nested_tensor=False)


def _experts(n_experts: int, layers: list[nn.Module]) -> nn.Module:
    """Apply several stacks of the same layers to one input side by side, each with initial weights of its own."""
    size = len(layers) // n_experts
    return Experts(nn.Sequential(*layers[i * size : (i + 1) * size]) for i in range(n_experts))


_ENTRIES: dict[str, Callable[..., nn.Module]] = {
    **{name: getattr(nn, name) for name in _TORCH_LAYERS},
    "Sequential": _sequential,
    "TransformerEncoder": _transformer_encoder,
    "Concat": Concat,
    "Add": Add,
    "Multiply": Multiply,
    "Residual": Residual,
    "Take": Take,
    "Mean": Mean,
    "Permute": Permute,
    "LazyEmbedding": LazyEmbedding,
    "Experts": _experts,
    "Gate": Gate,
    "LazyGate": LazyGate,
    "DSelectK": DSelectK,
    "LazyDSelectK": LazyDSelectK,
    "CrossStitch": CrossStitch,
    "InformationTransfer": InformationTransfer,
    "LazyInformationTransfer": LazyInformationTransfer,
    "JointProbability": JointProbability,
    "FiLM": FiLM,
    "TaskEmbedding": TaskEmbedding,
    "Adapter": Adapter,
    "LazyAdapter": LazyAdapter,
    "AttentionPooling": AttentionPooling,
    "LazyAttentionPooling": LazyAttentionPooling,
    "Temperature": Temperature,
}

MODULES: Catalogue[nn.Module] = Catalogue("module", _ENTRIES, BY_MODULE, BY_PARAMETER)


def build_module(spec: object, pointer: str = "") -> nn.Module:
    """Build the module that a spec describes, on torch's current default device.

    Args:
        spec: ``{"type": T, …arguments}``; containers hold further specs.
        pointer: Where the spec stands, for errors.

    Raises:
        SpecError: If a type is not in the catalogue, or an argument is wrong; names the innermost place.

    Example:
        >>> linear = {"type": "Linear", "in_features": 2, "out_features": 8}
        >>> build_module({"type": "Sequential", "layers": [linear]})
        Sequential(
          (0): Linear(in_features=2, out_features=8, bias=True)
        )
    """
    return _walk(spec, pointer, _builder)()


def canonical_module(spec: object, pointer: str = "") -> dict[str, Any]:
    """Return a module spec with every default written out, so that equal specs compare equal.

    Raises:
        SpecError: As :func:`build_module`, but nothing is built.
    """
    return _walk(spec, pointer, lambda name, arguments, _: {"type": name} | as_json(arguments))


def lazy_layers(spec: object, pointer: str = "") -> dict[str, str]:
    """Return the type of each layer that leaves its input's size open, by where it stands, outermost first.

    Raises:
        SpecError: As :func:`build_module`, but nothing is built.

    Example:
        >>> linear = {"type": "LazyLinear", "out_features": 8}
        >>> lazy_layers({"type": "Sequential", "layers": [{"type": "Flatten"}, linear]})
        {'/layers/1': 'LazyLinear'}
    """
    found: dict[str, str] = {}

    def note(name: str, _: dict[str, Any], at: str) -> None:
        if name in PLAIN:
            found[at] = name

    _walk(spec, pointer, note)
    return found


def resolve_module(spec: object, sizes: Mapping[str, int], pointer: str = "") -> dict[str, Any]:
    """Return a module's canonical spec with plain layers for those lazy ones whose input's size is given.

    Args:
        spec: As for :func:`build_module`.
        sizes: The input's size, or an embedding's rows, by where the lazy layer stands.
        pointer: Where the spec stands.

    Raises:
        SpecError: If the spec is wrong, or a size is none that the plain layer can have.

    Example:
        >>> resolve_module({"type": "LazyLinear", "out_features": 8}, {"": 2})
        {'type': 'Linear', 'in_features': 2, 'out_features': 8, 'bias': True}
    """

    def settle(name: str, arguments: dict[str, Any], at: str) -> dict[str, Any]:
        given = as_json(arguments)
        if at not in sizes:
            return {"type": name} | given
        plain, argument = PLAIN[name]
        return MODULES.canonical({"type": plain, argument: sizes[at]} | given, at)

    return _walk(spec, pointer, settle)


def count_layers(spec: object, limit: int) -> int:
    """Count a spec's layers before anything is checked or built, stopping soon after ``limit``.

    Recurrent and transformer stacks count each of their layers, both directions each; a transformer layer counts
    as the eight that it is made of; the layers of experts count once for each expert.

    Returns:
        The count, or some number above ``limit``.

    Example:
        >>> lstm = {"type": "LSTM", "num_layers": 3, "bidirectional": True}
        >>> count_layers({"type": "Sequential", "layers": [{"type": "ReLU"}, lstm]}, limit=100)
        8
    """
    total = 0
    frontier: list[tuple[object, int]] = [(spec, 1)]
    while frontier and total <= limit:
        layer, copies = frontier.pop()
        if not isinstance(layer, dict):
            continue
        given = cast("dict[str, Any]", layer)
        copies *= _copies(given)
        total += copies * (_TRANSFORMER_LAYERS if given.get("type") == "TransformerEncoderLayer" else 1)
        for argument in set(_CHILDREN.values()):
            children = given.get(argument)
            inner = cast("list[object]", children) if isinstance(children, list) else [children]
            frontier += [(child, copies) for child in inner]
    return total


def _builder(name: str, arguments: dict[str, Any], pointer: str) -> _Builder:
    """Return what builds a module, each time anew, of what builds the modules in it."""

    def build() -> nn.Module:
        given = dict(arguments)
        argument = _CHILDREN.get(name)
        if argument and isinstance(given[argument], list):
            children = cast("list[_Builder]", given[argument])
            # Copies of built layers would need to draw their weights anew, which not every layer can do.
            n_stacks = given["n_experts"] if name == "Experts" else 1
            given[argument] = [child() for _ in range(n_stacks) for child in children]
        elif argument:
            given[argument] = given[argument]()
        return MODULES.call(name, given, pointer)

    return build


def _copies(spec: dict[str, Any]) -> int:
    # What is no sane number is refused later, with the other arguments.
    if spec.get("type") == "Experts":
        return _within(spec.get("n_experts"), MAX_EXPERTS)
    return _within(spec.get("num_layers"), MAX_STACK) * (2 if spec.get("bidirectional") is True else 1)


def _within(number: object, limit: int) -> int:
    return number if isinstance(number, int) and 0 < number <= limit else 1


def _walk(
    spec: object, pointer: str, combine: Callable[[str, dict[str, Any], str], Any], depth: int = 0
) -> Any:
    if depth >= MAX_DEPTH:
        raise SpecError.at(pointer, f"modules are nested more than {MAX_DEPTH} deep")
    name, arguments = MODULES.arguments(spec, pointer)
    argument = _CHILDREN.get(name)
    if argument:
        children, at = arguments[argument], f"{pointer}/{argument}"
        if isinstance(children, list):
            specs = cast("list[object]", children)
            arguments[argument] = [
                _walk(child, f"{at}/{i}", combine, depth + 1) for i, child in enumerate(specs)
            ]
        else:
            arguments[argument] = _walk(children, at, combine, depth + 1)
    return combine(name, arguments, pointer)
