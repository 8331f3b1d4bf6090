"""Run a task's path on the meta device: shapes flow, numbers and memory don't."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_core.building.fields import TORCH_DTYPES, FieldShape
from mtl_core.errors import MODULE_FAILURES, OperationError, SpecError, TaskloomError, first_line, pointer_to
from mtl_core.losses import LabelForm, Loss
from mtl_core.model.plan import ExecutionPlan
from mtl_core.specs import FieldSpec
from mtl_core.task import Task

# A large prime, which no layer's size is likely to be, so that a path that loses the batch dimension shows.
_BATCH = 10_007

# Each takes some tenths of a millisecond even without numbers, and a short spec can ask for very many.
_MAX_STEPS = 2_500


@dataclass(frozen=True)
class DryRun:
    """What sending one example along a task's path takes.

    Attributes:
        output_shape: Shape of the task's output for one example.
        activations: Numbers in all tensors that are made on the way, for one example while training.
    """

    output_shape: list[int]
    activations: int


def dry_run(
    task: Task,
    fields: Mapping[str, FieldShape | FieldSpec],
    max_activations: int,
    labels: FieldSpec | None = None,
) -> DryRun:
    """Send a batch of shapes along a task's path and through its output function and loss.

    Torch's lazy layers become plain ones on the way.

    Args:
        task: A task whose modules are on the meta device.
        fields: Shape and dtype of every field that the task reads; every shape known.
        max_activations: How many numbers one example may take on its way.
        labels: Shape and dtype of one example's label; default: whatever suits the loss.

    Raises:
        SpecError: At the operation that does not fit its input, that loses the batch dimension or that takes
            too much, or where loss or output function do not suit the output.
    """
    plan = ExecutionPlan()
    plan.add_task(task)
    batch = {name: _meta_tensor(field, name, max_activations) for name, field in fields.items()}
    op_index = {op.name: i for i, op in enumerate(task.op_sequence)}
    watch = _Watch(max_activations)

    def call(module_name: str, inputs: list[Any]) -> Any:
        output = task.module_pool[module_name](*inputs)
        if isinstance(output, torch.Tensor) and (output.ndim == 0 or output.shape[0] != _BATCH):
            raise ValueError(f"it answers shape {list(output.shape)}: the batch dimension is lost")
        return output

    with torch.no_grad(), watch.layers(task):
        try:
            with watch:
                outputs = plan.run(batch, [task.name], call)
        except OperationError as error:
            detail = f"operation '{error.op_name}': {watch.reached()}{_reason(error.__cause__)}"
            raise SpecError.at(pointer_to("op_sequence", op_index[error.op_name]), detail) from error
        output = outputs[plan.output_node(task.name)]
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            kind = _dtype(output) if isinstance(output, torch.Tensor) else type(output).__name__
            detail = f"operation '{task.output_op}' answers {kind}; a task must end in one tensor of float32"
            raise SpecError.at(pointer_to("op_sequence", len(task.op_sequence) - 1), detail)
        _check_end(task, output, labels)
    return DryRun(list(output.shape[1:]), watch.numbers)


def _meta_tensor(field: FieldShape | FieldSpec, name: str, max_activations: int) -> torch.Tensor:
    if field.shape is None:
        raise TaskloomError(f"the shape of field '{name}' is not known")
    if prod(field.shape) > max_activations:
        detail = f"one example of field '{name}' holds more than {max_activations:,} numbers"
        raise SpecError.at(pointer_to("inputs", name), detail)
    return torch.empty((_BATCH, *field.shape), dtype=TORCH_DTYPES[field.dtype], device="meta")


def _check_end(task: Task, output: torch.Tensor, labels: FieldSpec | None) -> None:
    """Check that output function and loss can work on what the last operation answers."""
    shape = f"an output of shape {_shape(output)}"
    try:
        task.output_func.preds(task.output_func(output))
    except MODULE_FAILURES as error:
        raise SpecError.at("/output", f"does not suit {shape}: {_reason(error)}") from error
    try:
        form = LabelForm(list(output.shape[1:]), torch.float32)
        if isinstance(task.loss_func, Loss):
            form = task.loss_func.label_form(form.shape)
        if labels is not None:
            form = LabelForm(labels.shape, TORCH_DTYPES[labels.dtype])
        targets = torch.empty((_BATCH, *form.shape), dtype=form.dtype, device="meta")
        if labels is not None:
            shape += f" and labels of shape {_shape(targets)} {labels.dtype}"
        task.loss_func(output, targets)
    except MODULE_FAILURES as error:
        raise SpecError.at("/loss", f"does not suit {shape}: {_reason(error)}") from error


class _Watch(TorchDispatchMode):
    """Counts what is computed, and knows which layer is being called."""

    def __init__(self, max_activations: int) -> None:
        super().__init__()
        self.numbers = 0
        self._max_activations = max_activations
        self._steps = 0
        self._is_settling = False
        self._inside: list[tuple[nn.Module, tuple[Any, ...]]] = []
        self._recurrences: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._is_settling:
            return func(*args, **(kwargs or {}))
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise ValueError(f"the path takes more than {_MAX_STEPS:,} steps of computation")
        if func is torch.ops.aten._trilinear.default:
            # Torch would go through the outputs of a Bilinear one by one.
            result = args[0].new_empty((args[0].shape[0], args[1].shape[0]))
        else:
            result = func(*args, **(kwargs or {}))
        known = {_storage(tensor) for tensor in _tensors(args)}
        made = (tensor for tensor in _tensors(result) if _storage(tensor) not in known)
        # Not numel(), which overflows.
        self._count(sum(prod(tensor.shape) for tensor in made) // _BATCH)
        return result

    def _count(self, numbers: int) -> None:
        self.numbers += numbers
        if self.numbers > self._max_activations:
            raise ValueError(f"one example takes more than {self._max_activations:,} numbers up to here")

    @contextmanager
    def layers(self, task: Task) -> Generator[None]:
        """Follow the calls of the task's layers within the block."""
        layers = {layer for module in task.module_pool.values() for layer in module.modules()}
        # First of a lazy layer's hooks, so that what it cannot take is refused before it takes its size from it.
        hooks = [layer.register_forward_pre_hook(self._enter, prepend=True) for layer in layers]
        lazy = [layer for layer in layers if isinstance(layer, LazyModuleMixin)]
        hooks += [cast("nn.Module", layer).register_forward_pre_hook(self._settled) for layer in lazy]
        hooks += [layer.register_forward_hook(self._leave) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def reached(self) -> str:
        """Say which layer is being called, and on what."""
        if not self._inside:
            return ""
        layer, inputs = self._inside[-1]
        return f"{type(layer).__name__}({layer.extra_repr()}) cannot take {_shapes(inputs)}: "

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._inside.append((layer, inputs))
        if inputs and isinstance(inputs[0], torch.Tensor):
            _check_input(layer, inputs[0])
            if isinstance(layer, nn.RNNBase):
                # Every step costs the same; running thousands of them would take time for nothing.
                self._recurrences.append((inputs[0].shape[1], self.numbers))
                return (inputs[0][:, :1], *inputs[1:])
        # Making its parameters is no part of the path.
        self._is_settling = isinstance(layer, LazyModuleMixin)
        return None

    def _settled(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._is_settling = False

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(layer, nn.RNNBase):
            n_steps, before = self._recurrences.pop()
            self._count((self.numbers - before) * (n_steps - 1))
            sequence, state = output
            output = (sequence.new_empty((_BATCH, n_steps, sequence.shape[2])), state)
        self._inside.pop()
        return output


def _check_input(layer: nn.Module, x: torch.Tensor) -> None:
    """Refuse what torch lets pass on the meta device, or by taking the batch for another dimension."""
    is_attention = isinstance(layer, nn.MultiheadAttention | nn.TransformerEncoderLayer)
    if (is_attention or isinstance(layer, nn.Linear)) and not x.is_floating_point():
        raise ValueError("it works on float32")
    if isinstance(layer, LazyModuleMixin) and x.ndim < 2:
        raise ValueError("it works on [batch, …, features]")
    if (is_attention or isinstance(layer, nn.RNNBase)) and x.ndim != 3:
        raise ValueError("it works on sequences, [batch, steps, features]")
    if isinstance(layer, nn.Softmax2d) and x.ndim != 4:
        raise ValueError("it works on images, [batch, channels, height, width]")
    if isinstance(layer, _CONVOLUTIONS):
        _check_convolution(layer, x)
    for name in ("dim", "start_dim"):
        dim = getattr(layer, name, None)
        if isinstance(dim, int) and not -x.ndim < dim < x.ndim:
            raise ValueError(f"dimension {dim} is the batch or beyond the last")


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _check_convolution(layer: nn.Module, x: torch.Tensor) -> None:
    is_open = isinstance(layer, LazyModuleMixin)
    channels: Any = "channels" if is_open else layer.in_channels
    kernel, stride, dilation, extra, padding = (
        cast("tuple[int, ...]", getattr(layer, name))
        for name in ("kernel_size", "stride", "dilation", "output_padding", "padding")
    )
    if x.ndim != len(kernel) + 2 or not (is_open or x.shape[1] == channels):
        raise ValueError(f"it works on [batch, {channels}] and {len(kernel)} further dimensions")
    if not isinstance(padding, str) and len(padding) != len(kernel):
        raise ValueError(f"padding must have {len(kernel)} numbers")
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError("output_padding must be smaller than stride or dilation")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in cast("Sequence[Any]", value):
            yield from _tensors(item)


def _storage(tensor: torch.Tensor) -> int:
    # On the meta device every data pointer is 0, so this is what tells a view from a new tensor.
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _reason(error: BaseException | None) -> str:
    return first_line(error).replace(str(_BATCH), "batch")


def _shapes(inputs: tuple[Any, ...]) -> str:
    return "an input of shape " + " and ".join(f"{_shape(x)} {_dtype(x)}" for x in _tensors(inputs))


def _shape(tensor: torch.Tensor) -> str:
    return "[" + ", ".join("batch" if size == _BATCH else str(size) for size in tensor.shape) + "]"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
