"""What is wrong with a task spec, as far as it can be told without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtl_core.catalogue import Catalogue
from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.losses import LOSSES
from mtl_core.modules import count_layers
from mtl_core.outputs import OUTPUTS
from mtl_core.scoring.metrics import METRICS
from mtl_core.slicing.names import count_slice_layers, master_combiner, master_head
from mtl_core.specs import CatalogueSpec, TaskSpec
from mtl_core.task import INPUT


def size_faults(spec: TaskSpec, max_layers: int) -> Iterator[Fault]:
    """Yield where the task's modules, its slices' last, have more than ``max_layers`` layers together, if anywhere."""
    total = 0
    for name, module_spec in spec.module_pool.items():
        at = pointer_to("module_pool", name)
        total += count_layers(module_spec, max_layers)
        if total > max_layers:
            yield Fault(at, f"the modules have more than {max_layers:,} layers up to here")
            return
    if spec.slices and total + count_slice_layers(len(spec.slices)) > max_layers:
        yield Fault("/slices", f"with those of the slices, the modules have more than {max_layers:,} layers")


def reference_faults(spec: TaskSpec) -> Iterator[Fault]:
    """Yield names that an operation uses but nothing declares."""
    known: set[str] = set()
    for i, op in enumerate(spec.op_sequence):
        if op.module_name not in spec.module_pool:
            at = pointer_to("op_sequence", i, "module_name")
            yield Fault(
                at, f"operation '{op.op_name}' uses module '{op.module_name}', which the module pool lacks"
            )
        for j, entry in enumerate(op.inputs):
            at = pointer_to("op_sequence", i, "inputs", j)
            source, key = (entry, None) if isinstance(entry, str) else entry
            if source == INPUT and not isinstance(key, str):
                yield Fault(at, 'a field is read by ["_input_", field]')
            elif source not in known and source != INPUT:
                yield Fault(at, f"operation '{op.op_name}' reads '{source}', which is no earlier operation")
        if op.op_name in known or op.op_name == INPUT:
            yield Fault(pointer_to("op_sequence", i, "name"), f"another operation is named '{op.op_name}'")
        known.add(op.op_name)
    read = {
        str(e[1]) for op in spec.op_sequence for e in op.inputs if not isinstance(e, str) and e[0] == INPUT
    }
    if not read:
        yield Fault("/op_sequence", 'no operation reads a field: one must have an input ["_input_", field]')
    for name in spec.inputs or {}:
        if name not in read:
            yield Fault(pointer_to("inputs", name), f"no operation reads field '{name}'")


def catalogue_faults(spec: TaskSpec) -> Iterator[Fault]:
    """Yield what is wrong with the loss, the output function and the metrics."""
    parts: list[tuple[Catalogue[Any], object, str]] = [
        (LOSSES, spec.loss, "/loss"),
        (OUTPUTS, spec.output, "/output"),
        *((METRICS, metric, pointer_to("metrics", i)) for i, metric in enumerate(spec.metrics)),
    ]
    for catalogue, part, pointer in parts:
        try:
            catalogue.build(part, pointer)
        except SpecError as error:
            yield from error.faults
    names = [_type_of(metric) for metric in spec.metrics]
    for i, name in enumerate(names):
        if name in names[:i]:
            yield Fault(pointer_to("metrics", i), f"metric '{name}' is listed twice")


def scaling_faults(spec: TaskSpec) -> Iterator[Fault]:
    """Yield what keeps a task's targets from being scaled; its loss and output are known to be right."""
    if spec.target_scaling is None:
        return
    if not LOSSES.build(spec.loss).of_any_scale:
        yield Fault("/target_scaling", f"the loss {_type_of(spec.loss)} takes its labels as they are")
    elif OUTPUTS.build(spec.output).has_classes:
        yield Fault(
            "/target_scaling", f"the output {_type_of(spec.output)} answers classes, which have no scale"
        )


def slice_faults(spec: TaskSpec) -> Iterator[Fault]:
    """Yield what keeps a task from being sliced, where it has slices."""
    if not spec.slices:
        return
    head = spec.op_sequence[-1]
    name, module = head.op_name, spec.module_pool.get(head.module_name, {})
    kind, n_out = module.get("type"), module.get("out_features")
    if kind not in {"Linear", "LazyLinear"}:
        yield Fault(
            "/slices", f"a task with slices ends in a Linear, and its last operation '{name}' in a {kind}"
        )
    elif isinstance(n_out, int) and n_out < 2:
        yield Fault(
            "/slices", f"a task with slices has two classes at least: '{head.module_name}' tells {n_out}"
        )
    if len(head.inputs) != 1:
        yield Fault("/slices", f"a task with slices has one input to its last operation '{name}'")
    if head.module_name in (op.module_name for op in spec.op_sequence[:-1]):
        yield Fault("/slices", f"a task with slices uses its last module '{head.module_name}' once only")
    if _type_of(spec.loss) != "cross_entropy" or _type_of(spec.output) != "softmax":
        yield Fault("/slices", "a task with slices has the loss cross_entropy and the output softmax")
    used = {*spec.module_pool, *(op.op_name for op in spec.op_sequence)}
    for taken in sorted(used & {master_combiner(spec.name), master_head(spec.name)}):
        yield Fault("/slices", f"the slices of task '{spec.name}' bring a '{taken}': call yours otherwise")


def _type_of(part: CatalogueSpec) -> object:
    return part if isinstance(part, str) else part.get("type")
