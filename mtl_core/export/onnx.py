"""A model's tasks as one ONNX file, and what another runtime makes of it."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from typing import Any, cast

import torch
from torch import nn

from mtl_core.building.fields import FieldShape
from mtl_core.errors import MODULE_FAILURES, ExportError
from mtl_core.export.program import example_fields, shortened, trace
from mtl_core.export.served import ServedTasks
from mtl_core.files import written_whole
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.network import TaskNetwork

OPSET = 18
"""The version of ONNX's operators: the one that torch translates to, so that nothing is converted afterwards."""

_MOST_BYTES = 2**31 - 2**24
"""What one file holds, less some room for the graph: its format ends at 2 GiB."""

_TRACE = "pkg.torch.onnx.stack_trace"


@dataclass(frozen=True)
class OnnxCheck:
    """How an ONNX file's answers compare with the model's own.

    Attributes:
        rows: Sizes of the batches that both answered.
        largest_difference: Between two numbers of logits, probabilities or values; of numbers beyond 1, as a share of
            them.
        differing_predictions: Predicted classes that differ: where two classes are equally likely but for rounding.
    """

    rows: list[int]
    largest_difference: float
    differing_predictions: int


def export_onnx(
    network: TaskNetwork,
    tasks: Sequence[str],
    fields: Mapping[str, FieldShape],
    path: str | os.PathLike[str],
) -> None:
    """Write some tasks of a model as one ONNX file, whole or not at all; missing folders are made.

    Inputs are called as the fields, ``[n, …]`` for any ``n`` from 1 on, and outputs ``{task}.logits``,
    ``{task}.probs`` (``{task}.outputs`` where the task has no classes) and ``{task}.preds``. What several of the tasks
    need is computed once. How raw columns become fields is not part of it: see
    :func:`~mtl_core.what_is_left_out`.

    Args:
        network: The model; it stays as it is.
        tasks: Names of its tasks.
        fields: Shape and dtype of one example of each field; those that the tasks do not read are passed over.
        path: The file; one that is there is replaced.

    Raises:
        TaskloomError: If the model lacks a task, or none is named.
        ExportError: If the packages ``onnx`` and ``onnxscript`` are not installed; a field's shape is not known, or a
            field is called as an output; torch cannot trace an operation, or knows no ONNX for it; or the weights are
            more than one file holds.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "taskloom[onnx]")
    # Before all of them are copied.
    modules = {network.module_pool[name] for task in tasks for name in network.modules_of(task)}
    n_bytes = sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))
    if n_bytes > _MOST_BYTES:
        raise ExportError(f"the weights are {n_bytes:,} bytes; one ONNX file holds {_MOST_BYTES:,}")
    served = ServedTasks(network, tasks)
    batch = example_fields(served, fields)
    if taken := sorted(set(served.output_names) & batch.keys()):
        raise ExportError(f"field '{taken[0]}' is called as an output: give the field another name")
    program = trace(served, batch)
    try:
        made = torch.onnx.export(_translatable(program), opset_version=OPSET, dynamo=True, verbose=False)
    except MODULE_FAILURES as error:
        raise _untranslated(error, program, served) from error
    assert made is not None
    graph = cast("Any", made.model).graph
    _rename(graph, list(batch), served.output_names)
    for node in graph.all_nodes():
        # Paths on the machine that exported it are nobody's business.
        node.metadata_props.pop(_TRACE, None)
    with written_whole(path) as scratch:
        made.save(scratch, external_data=False)


def check_onnx(
    path: str | os.PathLike[str],
    classifier: MultitaskClassifier,
    tasks: Sequence[str],
    fields: Mapping[str, FieldShape],
    rows: Iterable[int] = (1, 7),
) -> OnnxCheck:
    """Compare what onnxruntime answers with what the model does, on batches of random numbers.

    Args:
        path: What :func:`export_onnx` wrote.
        classifier: The model that was exported.
        tasks: The tasks that were.
        fields: As for the export; indices are drawn from a field's ``vocabulary`` where it is known.
        rows: Sizes of the batches; default 1 and 7.

    Returns:
        The largest difference.

    Raises:
        ExportError: If the package ``onnxruntime`` is not installed, or cannot run the file.
    """
    runtime = require("onnxruntime", "taskloom[onnx]")
    served = ServedTasks(classifier, tasks)
    sizes, differences, differing = list(rows), [0.0], 0
    generator = torch.Generator().manual_seed(0)
    for n in sizes:
        batch = {
            name: _random(zeros, fields[name], served.readers_of(name), generator)
            for name, zeros in example_fields(served, fields, n).items()
        }
        ours = classifier.infer(batch, served.tasks)
        theirs = iter(_run(runtime, path, batch, served.output_names))
        for task in served.tasks:
            for kind, expected in ours[task].items():
                found = next(theirs)
                if kind == "preds" and not expected.is_floating_point():
                    differing += int((found != expected).sum())
                else:
                    differences.append(_difference(found, expected))
    return OnnxCheck(sizes, max(differences), differing)


def require(package: str, to_install: str) -> Any:
    """Import an optional package.

    Raises:
        ExportError: If it is not there, with what to install.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ExportError(
            f"this needs the package '{package}', which is not installed: pip install '{to_install}'"
        ) from error


def _rename(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give a graph's inputs and outputs their names, and what else is called so another."""
    named = dict(zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True))
    wanted = set(named.values())
    others = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = wanted.union(value.name for value in others)
    for value in others:
        if value not in named and value.name in wanted:
            free = next(name for i in range(len(taken)) if (name := f"{value.name}_{i}") not in taken)
            taken.add(free)
            value.name = free
    for value in named:
        # Out of the way, while names are passed around among them.
        value.name = None
    for value, name in named.items():
        value.name = name


def _untranslated(
    error: BaseException, program: torch.export.ExportedProgram, served: ServedTasks
) -> ExportError:
    """Say which operation torch has no ONNX for, as far as its errors tell."""
    reasons = [error]
    while reasons[-1].__cause__ is not None:
        reasons.append(reasons[-1].__cause__)
    last = str(reasons[-1])
    found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", last)
    if found is None:
        return ExportError(f"torch cannot write the tasks as ONNX: {shortened(last)}")
    name = f"{found[1]}.{found[2]}"
    return ExportError(f"torch knows no ONNX for {name}", *_origin(name, program, served))


def _origin(
    name: str, program: torch.export.ExportedProgram, served: ServedTasks
) -> tuple[str | None, str | None]:
    """Return the task and the operation that an operator is from; None where they are not known."""
    nodes = program.run_decompositions().graph.nodes
    stacks = (node.meta.get("nn_module_stack", {}) for node in nodes if str(node.target) == name)
    for path, _ in (
        entry for stack in stacks for entry in cast("dict[str, tuple[str, Any]]", stack).values()
    ):
        if origin := served.origin_of(path):
            return origin
    return (served.tasks[0] if len(served.tasks) == 1 else None), None


def _translatable(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write out what torch has no ONNX for, in operators for which it has."""
    if all(node.target is not torch.ops.aten.cumprod.default for node in program.graph.nodes):
        return program
    return program.run_decompositions({torch.ops.aten.cumprod.default: _running_product})


def _running_product(values: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    parts = (values if dtype is None else values.to(dtype)).unbind(dim)
    return torch.stack(list(accumulate(parts, operator.mul)), dim)


def _run(
    runtime: Any, path: str | os.PathLike[str], batch: Mapping[str, torch.Tensor], outputs: Sequence[str]
) -> list[torch.Tensor]:
    try:
        session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        answers = session.run(list(outputs), {name: values.numpy() for name, values in batch.items()})
    # Its errors have no common base but this.
    except Exception as error:
        raise ExportError(f"onnxruntime cannot run '{os.fspath(path)}': {shortened(str(error))}") from error
    return [torch.from_numpy(answer) for answer in answers]


def _random(
    zeros: torch.Tensor, field: FieldShape, readers: Iterable[nn.Module], generator: torch.Generator
) -> torch.Tensor:
    if field.dtype == "float32":
        return torch.randn(zeros.shape, generator=generator)
    layers = [layer for reader in readers for layer in reader.modules()]
    sizes = [layer.num_embeddings for layer in layers if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    return torch.randint(field.vocabulary or min(sizes, default=1), zeros.shape, generator=generator)


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    if found.shape != expected.shape:
        raise ExportError(f"an answer has shape {list(found.shape)}, and not {list(expected.shape)}")
    apart = (found.double() - expected.double()).abs() / expected.double().abs().clamp(min=1)
    # Infinity less itself is no number.
    apart[(found == expected) | (found.isnan() & expected.isnan())] = 0
    return float(apart.nan_to_num(nan=torch.inf).max()) if apart.numel() else 0.0
