"""A model's tasks as a program of torch.export, for any number of rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch

from mtl_core.building.fields import TORCH_DTYPES, FieldShape
from mtl_core.errors import MODULE_FAILURES, ExportError, OperationError
from mtl_core.export.served import ServedTasks
from mtl_core.files import written_whole
from mtl_core.model.network import TaskNetwork

_ROWS = 3
"""Rows of the batch that is traced: of one row, torch would take for granted that there is one."""

_MOST_LETTERS = 300


def export_program(
    network: TaskNetwork, tasks: Sequence[str], fields: Mapping[str, FieldShape]
) -> torch.export.ExportedProgram:
    """Trace some tasks of a model into one graph, from fields to answers, in evaluation mode.

    What several of the tasks need is computed once. How raw columns become fields is not part of it: see
    :func:`~mtl_core.what_is_left_out`.

    Args:
        network: The model; it stays as it is, and the program has copies of the weights, on the CPU.
        tasks: Names of its tasks.
        fields: Shape and dtype of one example of each field; those that the tasks do not read are passed over.

    Returns:
        A program whose ``module()`` takes one dict of fields by name, ``[n, …]`` for any ``n`` from 1 on, in the order
        in which ``program.example_inputs`` has them, and answers what
        :class:`~mtl_core.ServedTasks` does.

    Raises:
        TaskloomError: If the model lacks a task, or none is named.
        ExportError: If a field's shape is not known, or torch cannot trace an operation: one whose course depends on
            the numbers, say, or on how many rows there are. Names the task and the operation.

    Example:
        >>> from torch import nn
        >>> from mtl_core import MultitaskClassifier, Operation, Task
        >>> task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
        >>> model = MultitaskClassifier([task], device=-1)
        >>> program = export_program(model, ["t"], {"x": FieldShape([4], "float32")})
        >>> tuple(program.module()({"x": torch.zeros(5, 4)})["t.preds"].shape)
        (5,)
    """
    served = ServedTasks(network, tasks)
    return trace(served, example_fields(served, fields))


def save_program(program: torch.export.ExportedProgram, path: str | os.PathLike[str]) -> None:
    """Write a program for ``torch.export.load``, whole or not at all; missing folders are made.

    Args:
        program: What :func:`export_program` answered.
        path: The file, by custom ``….pt2``; one that is there is replaced.
    """
    example_inputs = program.example_inputs
    # The one part that torch would pickle. What is left is JSON, and the bytes of the weights.
    program.example_inputs = None
    try:
        with written_whole(path) as scratch, scratch.open("wb") as file:
            torch.export.save(program, file)
    finally:
        program.example_inputs = example_inputs


def example_fields(
    served: ServedTasks, fields: Mapping[str, FieldShape], rows: int = _ROWS
) -> dict[str, torch.Tensor]:
    """Return a batch of zeros of the fields that are read, ``[rows, …]``.

    Raises:
        ExportError: If a field is not among ``fields``, or its shape is not known.
    """
    batch: dict[str, torch.Tensor] = {}
    for name in fields if served.fields is None else served.fields:
        if name not in fields:
            raise ExportError(f"the tasks read field '{name}', but what it looks like is not given")
        shape = fields[name].shape
        if shape is None:
            raise ExportError(f"the shape of field '{name}' is not known: give it")
        batch[name] = torch.zeros((rows, *shape), dtype=TORCH_DTYPES[fields[name].dtype])
    return batch


def trace(served: ServedTasks, batch: dict[str, torch.Tensor]) -> torch.export.ExportedProgram:
    """Trace tasks on a batch of two rows or more.

    Raises:
        ExportError: As :func:`export_program`.
    """
    # Attention has a shortcut that is one opaque operation, which nothing but torch knows; it is not taken where
    # gradients may be wanted.
    weights = [p for p in served.parameters() if p.is_floating_point()]
    for weight in weights:
        weight.requires_grad_(True)
    rows = torch.export.Dim("rows", min=1)
    try:
        with torch.enable_grad():
            program = torch.export.export(
                served, (batch,), dynamic_shapes=({name: {0: rows} for name in batch},), strict=False
            )
    except ExportError:
        raise
    except OperationError as error:
        raise ExportError(
            f"cannot be traced: {shortened(error.reason)}", error.task_name, error.op_name
        ) from error
    except MODULE_FAILURES as error:
        reason = f"cannot be traced: {shortened(str(error))}"
        if "Constraints violated" in str(error):
            reason = "cannot be traced for any number of rows: an operation is made for one number, or few"
        task = served.tasks[0] if len(served.tasks) == 1 else None
        raise ExportError(reason if task else f"the tasks {reason}", task) from error
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            # Paths on the machine that traced it are nobody's business.
            node.meta.pop("stack_trace", None)
    return program


def shortened(message: str) -> str:
    """Return the first lines of what torch says, without addresses of documentation and hints for its developers."""
    lines = [line.strip() for line in message.strip().splitlines()]
    text = lines[0] if lines else "no reason is given"
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + "…"
