"""Layers of a task whose input's size comes with the data: where they stand, what they wait for, how they settle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from mtl_core.building.fields import FieldShape
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.modules import lazy_layers, resolve_module
from mtl_core.modules.experts import Experts
from mtl_core.modules.lazy import PLAIN
from mtl_core.specs import OperationSpec, TaskSpec
from mtl_core.task import INPUT


def open_layers(spec: TaskSpec) -> dict[str, str]:
    """Return the type of each layer that leaves its input's size open, by its pointer into the spec."""
    return {
        at: kind
        for name, module_spec in spec.module_pool.items()
        for at, kind in lazy_layers(module_spec, pointer_to("module_pool", name)).items()
    }


def placement_faults(spec: TaskSpec) -> Iterator[Fault]:
    """Yield the lazy layers that stand where no data can tell their size."""
    reached = {op.module_name for _, op in _reached(spec)}
    for name, module_spec in spec.module_pool.items():
        pointer = pointer_to("module_pool", name)
        for at, kind in lazy_layers(module_spec, pointer).items():
            if name not in reached:
                yield Fault(
                    at, f"the output does not depend on module '{name}', so nothing tells the size of {kind}"
                )
            if kind == "LazyEmbedding" and at != _first_of(module_spec, pointer):
                yield Fault(at, "LazyEmbedding must be the first layer of its module, where a field feeds it")
    for i, op in _reached(spec):
        if _leads_with_embedding(spec, op) and not _is_fed_by_field(op):
            at = pointer_to("op_sequence", i, "inputs", 0)
            detail = (
                f"operation '{op.op_name}' must read one field, [\"_input_\", field]: its LazyEmbedding has"
            )
            yield Fault(at, f"{detail} a row for each index of that field")


def unknown_sizes(spec: TaskSpec, fields: Mapping[str, FieldShape]) -> Iterator[Fault]:
    """Yield the fields of which too little is known to settle the task's lazy layers."""
    waiting = open_layers(spec)
    kinds = sorted(set(waiting.values()) - {"LazyEmbedding"})
    for name, field in fields.items():
        if kinds and field.shape is None:
            yield Fault(
                pointer_to("inputs", name),
                f"the shape of field '{name}' is not known, and {kinds[0]} needs it",
            )
    for i, op in _reached(spec):
        if _leads_with_embedding(spec, op) and fields[_field_of(op)].vocabulary is None:
            at = pointer_to("op_sequence", i, "inputs", 0)
            yield Fault(
                at, f"the vocabulary of field '{_field_of(op)}' is not known, and LazyEmbedding needs it"
            )


def settle_embeddings(spec: TaskSpec, fields: Mapping[str, FieldShape]) -> TaskSpec:
    """Return the spec with an ``Embedding`` of a row for each index in place of every ``LazyEmbedding``.

    Raises:
        SpecError: If one embedding reads two fields whose vocabularies differ.
    """
    sizes: dict[str, int] = {}
    for i, op in _reached(spec):
        if not _leads_with_embedding(spec, op):
            continue
        at = _first_of(spec.module_pool[op.module_name], pointer_to("module_pool", op.module_name))
        vocabulary = fields[_field_of(op)].vocabulary
        assert vocabulary is not None
        if sizes.setdefault(at, vocabulary) != vocabulary:
            detail = f"operation '{op.op_name}' reads field '{_field_of(op)}' with a vocabulary of {vocabulary:,}, but"
            detail += (
                f" module '{op.module_name}' has {sizes[at]:,} rows for the field of an earlier operation"
            )
            raise SpecError.at(pointer_to("op_sequence", i), detail)
    return _with_sizes(spec, sizes)


def settle_layers(spec: TaskSpec, layers: list[nn.Module]) -> TaskSpec:
    """Return the spec with plain layers in place of its lazy ones.

    Args:
        spec: Whose embeddings are settled.
        layers: What :func:`unsettled` found of its modules, after a run through them.
    """
    waiting = open_layers(spec).items()
    return _with_sizes(
        spec, {at: getattr(layer, PLAIN[kind][1]) for (at, kind), layer in zip(waiting, layers, strict=True)}
    )


def unsettled(modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Return the modules' lazy layers, in the order in which :func:`open_layers` names them.

    Of experts, whose layers a spec names once, they are the first one's.
    """
    return [
        layer
        for module in modules.values()
        for layer in _layers_once(module)
        if isinstance(layer, LazyModuleMixin)
    ]


def _layers_once(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for child in [module.experts[0]] if isinstance(module, Experts) else module.children():
        yield from _layers_once(child)


def _with_sizes(spec: TaskSpec, sizes: Mapping[str, int]) -> TaskSpec:
    pool = {
        name: resolve_module(module_spec, sizes, pointer_to("module_pool", name))
        for name, module_spec in spec.module_pool.items()
    }
    return spec.model_copy(update={"module_pool": pool})


def _reached(spec: TaskSpec) -> list[tuple[int, OperationSpec]]:
    """Return the operations that the task's output depends on, with their positions."""
    wanted = {spec.op_sequence[-1].op_name}
    reached: list[tuple[int, OperationSpec]] = []
    for i, op in reversed(list(enumerate(spec.op_sequence))):
        if op.op_name in wanted:
            wanted |= {entry if isinstance(entry, str) else entry[0] for entry in op.inputs}
            reached.insert(0, (i, op))
    return reached


def _leads_with_embedding(spec: TaskSpec, op: OperationSpec) -> bool:
    module_spec = spec.module_pool[op.module_name]
    return lazy_layers(module_spec).get(_first_of(module_spec, "")) == "LazyEmbedding"


def _first_of(module_spec: object, pointer: str) -> str:
    """Return the pointer to the layer that a module calls first, on its own input."""
    while isinstance(module_spec, Mapping):
        layer = cast("Mapping[str, Any]", module_spec)
        if layer["type"] != "Sequential":
            break
        module_spec, pointer = layer["layers"][0], f"{pointer}/layers/0"
    return pointer


def _is_fed_by_field(op: OperationSpec) -> bool:
    return len(op.inputs) == 1 and not isinstance(op.inputs[0], str) and op.inputs[0][0] == INPUT


def _field_of(op: OperationSpec) -> str:
    return str(op.inputs[0][1])
