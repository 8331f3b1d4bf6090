"""What one example of a field looks like, as far as a task's path tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.modules.lazy import LazyEmbedding
from mtl_core.specs import DType, FieldSpec
from mtl_core.task import INPUT, Task

TORCH_DTYPES: dict[DType, torch.dtype] = {"float32": torch.float32, "int64": torch.int64}
"""torch's type of the numbers of a field, or of labels, by its name in specs."""


@dataclass(frozen=True)
class FieldShape:
    """Shape and dtype of one example of a field.

    Attributes:
        shape: Without the batch dimension; None where nothing tells it.
        dtype: ``float32`` or ``int64``.
        declared: Whether the spec says so; else it is what the first layer that reads the field suggests, and
            other shapes may do as well (a ``Linear`` takes any dimensions before its features).
        vocabulary: How many indices an index field may hold, 0 to ``vocabulary - 1``; None where nothing tells it.
    """

    shape: list[int] | None
    dtype: DType
    declared: bool = False
    vocabulary: int | None = None


FieldShapes = dict[str, FieldShape]


def infer_fields(task: Task, declared: Mapping[str, FieldSpec] | None = None) -> FieldShapes:
    """Tell each field's shape and dtype from what was declared, else from the first layer that reads it.

    A ``Linear`` or a norm suggests the shape; a convolution, a recurrent layer, an embedding or a lazy layer does
    not. Fields are float32 unless an embedding reads them.
    """
    shapes: FieldShapes = {}
    for op in task.op_sequence:
        for position, entry in enumerate(op.inputs):
            if isinstance(entry, str) or entry[0] != INPUT:
                continue
            name = str(entry[1])
            if declared and name in declared:
                shapes[name] = FieldShape(declared[name].shape, declared[name].dtype, declared=True)
            elif name not in shapes or shapes[name].shape is None:
                found = _first_layer_input(task.module_pool[op.module_name], position)
                # A reader that tells nothing must not undo what an embedding said before.
                if name not in shapes or found.shape is not None or found.dtype == "int64":
                    shapes[name] = found
    return shapes


def merge_fields(by_task: Mapping[str, FieldShapes]) -> FieldShapes:
    """Merge what the tasks of one model say of their fields.

    A declared shape goes before an inferred one, and any shape before none.

    Args:
        by_task: Each task's fields, by its name.

    Raises:
        SpecError: If two tasks read a field with different dtypes, or with shapes that are both declared or
            both inferred and differ; names the field and both tasks, and points into the second one's spec.
    """
    merged: FieldShapes = {}
    said_by: dict[str, str] = {}
    for task_name, fields in by_task.items():
        for name, field in fields.items():
            known = merged.get(name)
            if known is None:
                merged[name], said_by[name] = field, task_name
                continue
            tasks = (said_by[name], task_name)
            if known.dtype != field.dtype:
                raise _disagreement(name, tasks, (known.dtype, field.dtype))
            if _certainty(known) == _certainty(field) and known.shape != field.shape:
                raise _disagreement(name, tasks, (known.shape, field.shape))
            if _certainty(field) > _certainty(known):
                merged[name], said_by[name] = field, task_name
    return merged


def vocabulary_faults(task: Task, fields: Mapping[str, FieldShape]) -> Iterator[Fault]:
    """Yield the operations whose embedding has fewer rows than the field that they read has indices."""
    for i, op in enumerate(task.op_sequence):
        layer = _first_layer(task.module_pool[op.module_name])
        if not isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            continue
        for entry in op.inputs:
            field = fields.get(str(entry[1])) if not isinstance(entry, str) and entry[0] == INPUT else None
            if field and field.vocabulary is not None and field.vocabulary > layer.num_embeddings:
                detail = f"operation '{op.name}': its {type(layer).__name__} has {layer.num_embeddings:,} rows, but"
                detail += f" field '{entry[1]}' has a vocabulary of {field.vocabulary:,}"
                yield Fault(pointer_to("op_sequence", i), detail)


def _certainty(field: FieldShape) -> int:
    return 0 if field.shape is None else 1 + field.declared


def _disagreement(name: str, tasks: tuple[str, str], forms: tuple[object, object]) -> SpecError:
    detail = f"field '{name}' is {forms[0]} for task '{tasks[0]}' and {forms[1]} for task '{tasks[1]}'"
    return SpecError.at(pointer_to("inputs", name), f"{detail}: declare one form in the inputs of both")


def _first_layer_input(module: nn.Module, position: int) -> FieldShape:
    match _first_layer(module):
        # Torch's lazy layers are plain ones of size 0.
        case nn.Linear(in_features=size) if size:
            return FieldShape([size], "float32")
        case nn.Bilinear(in1_features=first, in2_features=second):
            return FieldShape([first if position == 0 else second], "float32")
        case nn.BatchNorm1d(num_features=size) if size:
            return FieldShape([size], "float32")
        case nn.LayerNorm(normalized_shape=shape) | nn.RMSNorm(normalized_shape=shape):
            return FieldShape(list(shape), "float32")
        case nn.Embedding() | nn.EmbeddingBag() | LazyEmbedding():
            return FieldShape(None, "int64")
        case _:
            return FieldShape(None, "float32")


def _first_layer(module: nn.Module) -> nn.Module | None:
    """Return the first layer that constrains its input, looking through those that take any shape."""
    for layer in module.modules():
        # An attention layer's children are not called on its input.
        if isinstance(layer, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            return layer
        is_leaf = next(layer.children(), None) is None
        if is_leaf and not isinstance(layer, _ANY_SHAPE):
            return layer
    return None


_ANY_SHAPE = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU),
    *(nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh),
)
