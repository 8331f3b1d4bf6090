"""Task specs → tasks: every check that needs no data, and modules built once for all tasks that name them."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtl_core.building.budget import Limits, check_budget, count_parameters
from mtl_core.building.dry_run import dry_run
from mtl_core.building.faults import (
    catalogue_faults,
    reference_faults,
    scaling_faults,
    size_faults,
    slice_faults,
)
from mtl_core.building.fields import FieldShape, FieldShapes, infer_fields, merge_fields, vocabulary_faults
from mtl_core.building.resolving import (
    open_layers,
    placement_faults,
    settle_embeddings,
    settle_layers,
    unknown_sizes,
    unsettled,
)
from mtl_core.errors import Fault, ModuleConflictError, SpecError, pointer_to
from mtl_core.kinds import KINDS
from mtl_core.losses import LOSSES
from mtl_core.model.architecture import spec_difference
from mtl_core.model.plan import ExecutionPlan
from mtl_core.modules import build_module, canonical_module
from mtl_core.outputs import OUTPUTS
from mtl_core.scaling import ScaledLoss, ScaledOutput, TargetScale
from mtl_core.scoring.metrics import METRICS
from mtl_core.scoring.scorer import Scorer
from mtl_core.slicing.names import master_combiner, master_head
from mtl_core.slicing.tasks import MakeLinear, convert_to_slice_tasks, slice_tasks
from mtl_core.specs import FieldSpec, TaskSpec
from mtl_core.task import Operation, Task


@dataclass(frozen=True)
class TaskReport:
    """What checking a spec found out.

    Attributes:
        parameters: Trainable and fixed numbers of each module, by module name; a layer whose input's size is not
            known yet counts none. Those that slices bring are listed once the head's input is known, the layer that
            predictors share at the first of its names.
        fields: Shape and dtype of each field the task reads; the shape is None where nothing tells it. Fields that
            only its slices look at are not among them.
        output_shape: Shape of the task's output for one example; None where a field's shape, or the vocabulary
            that a lazy embedding waits for, is unknown.
        activations: Numbers that one example takes on its way along the task's path while it trains, all
            layers together; None where the output's shape is.
    """

    parameters: dict[str, int]
    fields: FieldShapes
    output_shape: list[int] | None
    activations: int | None


def check_task(
    spec: TaskSpec,
    limits: Limits,
    fields: Mapping[str, FieldSpec | FieldShape] | None = None,
    labels: FieldSpec | None = None,
) -> TaskReport:
    """Check a spec from end to end on the meta device, where nothing takes memory.

    Where lazy layers can be resolved, what is checked is the resolved task.

    Args:
        spec: The task.
        limits: What it may ask for.
        fields: Shapes and dtypes of the fields as a dataset has them; default: those declared or inferred.
        labels: Shape and dtype of one example's label as a dataset has it; default: what suits the loss.

    Returns:
        Sizes and shapes; of ``fields``, those given go before those declared or inferred.

    Raises:
        SpecError: With every fault that can be told apart: unknown names, wrong arguments, sizes along the
            path that do not fit, a spec beyond the limits.
    """
    task, known = _lay_out(spec, limits, fields or {})
    waits = bool(open_layers(spec))
    if waits and not any(unknown_sizes(spec, known)):
        task, waits = _on_meta(_resolved(spec, known, limits)), False
    tasks = [task] if waits else _sliced(spec, task)
    parameters = count_parameters(tasks)
    check_budget(parameters, limits, brought=parameters.keys() - spec.module_pool.keys())
    if waits or any(field.shape is None for field in known.values()):
        return TaskReport(parameters, known, None, None)
    run = dry_run(task, known, limits.max_activations, labels)
    if spec.slices:
        if len(run.output_shape) != 1:
            detail = f"a task with slices answers one number for each class, not shape {run.output_shape}"
            raise SpecError.at("/slices", detail)
        try:
            run = dry_run(tasks[-1], known, limits.max_activations, labels)
        except SpecError as error:
            # What is wrong without the slices was found before.
            raise SpecError([Fault("/slices", fault.detail) for fault in error.faults]) from error
    return TaskReport(parameters, known, run.output_shape, run.activations)


def resolve_task(
    spec: TaskSpec,
    fields: Mapping[str, FieldShape],
    limits: Limits,
    target_scale: TargetScale | None = None,
) -> TaskSpec:
    """Return a spec with all filled in that comes with the data.

    Plain layers stand in place of its lazy ones, sized by the fields that the task reads, and the scale of the labels
    in place of ``"standard"``.

    Args:
        spec: The task; one that leaves nothing open is returned as it is.
        fields: Shapes and vocabularies of the fields; those missing are taken as declared or inferred.
        limits: What the task may ask for.
        target_scale: Where the labels lie, as of :func:`~mtl_core.scaling.fit_target_scale`; needed where
            ``target_scaling`` is open.

    Raises:
        SpecError: If a shape or vocabulary that a lazy layer needs, or the labels' scale, is unknown, the output does
            not depend on the layer, two uses of it differ in size, or the task is wrong in another way.

    Example:
        >>> layer = {"type": "LazyLinear", "out_features": 3}
        >>> path = [{"module_name": "m", "inputs": [("_input_", "x")]}]
        >>> spec = TaskSpec(name="t", module_pool={"m": layer}, op_sequence=path)
        >>> resolve_task(spec, {"x": FieldShape([5], "float32")}, Limits()).module_pool["m"]
        {'type': 'Linear', 'in_features': 5, 'out_features': 3, 'bias': True}
    """
    if spec.target_scaling == "standard":
        if target_scale is None:
            raise SpecError.at("/target_scaling", "the scale of the labels is not known")
        spec = spec.model_copy(update={"target_scaling": target_scale})
    if not open_layers(spec):
        return spec
    _, known = _lay_out(spec, limits, fields)
    if faults := list(unknown_sizes(spec, known)):
        raise SpecError(faults)
    return _resolved(spec, known, limits)


def check_shared_modules(specs: Iterable[TaskSpec]) -> None:
    """Refuse tasks that declare one module name with different specs.

    Raises:
        ModuleConflictError: Naming the module and both tasks.
    """
    specs = list(specs)
    declared: dict[str, tuple[str, dict[str, Any]]] = {}
    # The other modules that slices bring have a colon in their names, which no declared one has.
    brought = {
        name: spec.name
        for spec in specs
        for name in (master_combiner(spec.name), master_head(spec.name))
        if spec.slices
    }
    for spec in specs:
        for name, module_spec in spec.module_pool.items():
            if name in brought:
                raise ModuleConflictError(name, brought[name], spec.name, "the first one's slices bring it")
            canonical = canonical_module(module_spec)
            first_task, first = declared.setdefault(name, (spec.name, canonical))
            if what := spec_difference(first, canonical):
                raise ModuleConflictError(name, first_task, spec.name, what)


def shared_fields(reports: Mapping[str, TaskReport]) -> FieldShapes:
    """Merge what the reports of one model's tasks say of their fields.

    A declared shape goes before an inferred one.

    Args:
        reports: What :func:`check_task` answered, by the tasks' names.

    Raises:
        SpecError: If two tasks read one field in different forms; names the field and both tasks.
    """
    return merge_fields({name: report.fields for name, report in reports.items()})


def build_tasks(specs: Iterable[TaskSpec], seed: int | None = None) -> list[Task]:
    """Build tasks for one model, each module once.

    In place of a task with slices come those that :func:`~mtl_core.slicing.convert_to_slice_tasks` makes of it, the
    task itself last.

    Args:
        specs: The tasks.
        seed: Seeds every module's initial weights by its name, so that they depend neither on the other tasks
            nor on their order; default: drawn from torch's random generator.

    Raises:
        ModuleConflictError: If one module name is declared with different specs.
        SpecError: If a spec is wrong, or leaves open what comes with the data: sizes of lazy layers, a scale.
    """
    specs = list(specs)
    check_shared_modules(specs)
    for spec in specs:
        if waiting := open_layers(spec):
            raise SpecError(
                [
                    Fault(at, f"task '{spec.name}': the input size of {kind} is open: resolve the task first")
                    for at, kind in waiting.items()
                ]
            )
        if spec.target_scaling == "standard":
            detail = f"task '{spec.name}': the scale of its targets is open: resolve the task first"
            raise SpecError.at("/target_scaling", detail)
    shared: dict[str, nn.Module] = {}
    for spec in specs:
        for name, module_spec in spec.module_pool.items():
            if name not in shared:
                with _seeded_by_name(seed, name):
                    shared[name] = build_module(module_spec, pointer_to("module_pool", name))

    def make(name: str, n_in: int, n_out: int) -> nn.Linear:
        with _seeded_by_name(seed, name):
            return nn.Linear(n_in, n_out)

    built = [_build_task(spec, {name: shared[name] for name in spec.module_pool}) for spec in specs]
    return [task for spec, base in zip(specs, built, strict=True) for task in _sliced(spec, base, make)]


def canonical_task(spec: TaskSpec) -> dict[str, Any]:
    """Return a task spec as JSON values with every default written out, so that equal specs compare equal.

    Raises:
        SpecError: If a module, the loss, the output or a metric is wrong.
    """
    return spec.written_out() | {
        "module_pool": {name: canonical_module(module) for name, module in spec.module_pool.items()},
        "kind": None if spec.kind is None else KINDS.canonical(spec.kind),
        "loss": LOSSES.canonical(spec.loss),
        "output": OUTPUTS.canonical(spec.output),
        "metrics": [METRICS.canonical(metric) for metric in spec.metrics],
        "inputs": {name: field.model_dump(mode="json") for name, field in (spec.inputs or {}).items()},
    }


def plan_of(specs: Iterable[TaskSpec]) -> ExecutionPlan:
    """Return the plan of one model's tasks, without building a module."""
    plan = ExecutionPlan()
    for spec in specs:
        outlines: dict[str, nn.Module] = {name: nn.Identity() for name in spec.module_pool}
        if spec.slices:
            # A plan knows no sizes, but only a Linear can be sliced.
            outlines[spec.op_sequence[-1].module_name] = nn.Linear(1, 2, device="meta")
        for task in _sliced(spec, _build_task(spec, outlines)):
            plan.add_task(task)
    return plan


def _lay_out(
    spec: TaskSpec, limits: Limits, fields: Mapping[str, FieldSpec | FieldShape]
) -> tuple[Task, FieldShapes]:
    """Build the task on the meta device and say what is known of its fields; refuse what needs no run to be told."""
    faults = [*reference_faults(spec), *catalogue_faults(spec), *size_faults(spec, limits.max_layers)]
    if faults := faults or [*scaling_faults(spec), *slice_faults(spec)]:
        raise SpecError(faults)
    task = _on_meta(spec)
    known = infer_fields(task, spec.inputs) | _given_fields(spec, task, fields)
    if faults := [*placement_faults(spec), *vocabulary_faults(task, known)]:
        raise SpecError(faults)
    return task, known


def _resolved(spec: TaskSpec, known: FieldShapes, limits: Limits) -> TaskSpec:
    spec = settle_embeddings(spec, known)
    if not open_layers(spec):
        return spec
    task = _on_meta(spec)
    layers = unsettled(task.module_pool)
    dry_run(task, known, limits.max_activations)
    return settle_layers(spec, layers)


def _sliced(spec: TaskSpec, base_task: Task, make: MakeLinear | None = None) -> list[Task]:
    """Return a built task as the tasks that its spec's slices make of it, itself last."""
    names = [part.name for part in spec.slices]
    if not names:
        return [base_task]
    return slice_tasks(base_task, names, make) if make else convert_to_slice_tasks(base_task, names)


@contextmanager
def _seeded_by_name(seed: int | None, name: str) -> Generator[None]:
    """Seed torch for the block by a module's name; do nothing without a seed."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed((seed + zlib.crc32(name.encode())) % 2**63)
        yield


def _on_meta(spec: TaskSpec) -> Task:
    with torch.device("meta"):
        return _build_task(spec, _build_pool(spec))


def _given_fields(spec: TaskSpec, task: Task, fields: Mapping[str, FieldSpec | FieldShape]) -> FieldShapes:
    """Return those of the given fields that the task reads; refuse what its spec declares otherwise."""
    given: FieldShapes = {}
    for name in task.fields:
        if (field := fields.get(name)) is None:
            continue
        declared = (spec.inputs or {}).get(name)
        if declared and declared.shape != field.shape:
            detail = f"field '{name}' is declared with shape {declared.shape}, but has {field.shape}"
            raise SpecError.at(pointer_to("inputs", name), detail)
        vocabulary = field.vocabulary if isinstance(field, FieldShape) else None
        given[name] = FieldShape(field.shape, field.dtype, declared is not None, vocabulary)
    return given


def _build_pool(spec: TaskSpec) -> dict[str, nn.Module]:
    built: dict[str, nn.Module] = {}
    faults: list[Fault] = []
    for name, module_spec in spec.module_pool.items():
        try:
            built[name] = build_module(module_spec, pointer_to("module_pool", name))
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(faults)
    return built


def _build_task(spec: TaskSpec, modules: dict[str, nn.Module]) -> Task:
    loss, output = LOSSES.build(spec.loss, "/loss"), OUTPUTS.build(spec.output, "/output")
    if isinstance(scale := spec.target_scaling, TargetScale):
        loss, output = ScaledLoss(loss, scale), ScaledOutput(output, scale)
    return Task(
        name=spec.name,
        module_pool=modules,
        op_sequence=[Operation(op.module_name, op.inputs, op.op_name) for op in spec.op_sequence],
        scorer=Scorer(metrics=spec.metrics),
        loss_func=loss,
        output_func=output,
    )
