"""What a model answers in evaluation mode: logits, probabilities and predictions, of many tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from mtl_core.data import DictDataLoader
from mtl_core.errors import MODULE_FAILURES
from mtl_core.model.cut import Cut
from mtl_core.model.devices import call, gpus_beside, map_tensors, to_device
from mtl_core.model.heads import Heads, has_hooks, linear_heads
from mtl_core.model.network import TaskNetwork
from mtl_core.model.plan import Source, value_of
from mtl_core.model.reading import PathTraits, SplitReading
from mtl_core.outputs import Output, Softmax
from mtl_core.task import WEIGHTS

KINDS = ("logits", "probs", "preds")
"""What may be wanted of a task."""

_CPU = torch.device("cpu")


def fields_on(device: torch.device, X_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch's fields, without the examples' weights, on a device."""
    return to_device({name: values for name, values in X_dict.items() if name != WEIGHTS}, device)


def run_plan(
    network: TaskNetwork,
    fields: Mapping[str, Any],
    task_names: Iterable[str],
    cut: Cut | None = None,
    without: Collection[int] = (),
) -> dict[int, Any]:
    """Run what tasks need on the network's device, or on all GPUs beside it; see :meth:`ExecutionPlan.run`."""
    gpus = gpus_beside(network.device) if network.config.dataparallel else []
    return network.plan.run(
        fields,
        task_names,
        lambda name, inputs: call(network.module_pool[name], inputs, gpus),
        cut,
        without,
    )


@contextmanager
def evaluation_mode(network: nn.Module) -> Generator[None]:
    """Put a network's modules into evaluation mode for a while."""
    # Each by itself: a model in training may have frozen parts that are in evaluation mode.
    training = [module for module in network.modules() if module.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """Return what calling a module comes to, without the detours that hooks of torch's own modules would need.

    It goes by the parameters that are the module's now.
    """
    kind = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or has_hooks(module):
        return module
    match module:
        case nn.Sequential():
            return _chained([forward_of(part) for part in module])
        case nn.Linear():
            return partial(functional.linear, weight=module.weight, bias=module.bias)
        case _:
            return module.forward


def _chained(forwards: Sequence[Callable[..., Any]]) -> Callable[[Any], Any]:
    def forward(value: Any) -> Any:
        for each in forwards:
            value = each(value)
        return value

    return forward


def answer(output: Output, logits: Any, kinds: Collection[str]) -> dict[str, Any]:
    """Return what is wanted of one task, by kind, on the CPU; see :func:`answer_in_place`."""
    found = answer_in_place(output, logits, kinds)
    if isinstance(logits, torch.Tensor) and logits.is_cpu:
        return found
    return {kind: to_device(values, _CPU) for kind, values in found.items()}


def answer_in_place(output: Output, logits: Any, kinds: Collection[str]) -> dict[str, Any]:
    """Return what is wanted of one task, by kind, on the device where its logits are.

    Args:
        output: The task's output function.
        logits: What its last operation answered.
        kinds: Which of ``"logits"``, ``"probs"`` and ``"preds"`` are wanted.

    Returns:
        Tensors ``[n, …]``, in float32 where the logits are in half precision.
    """
    if not isinstance(logits, torch.Tensor) or logits.dtype != torch.float32:
        logits = map_tensors(logits, _full_precision)
    found: dict[str, Any] = {"logits": logits}
    if "probs" in kinds:
        found["probs"] = output(logits)
    if "preds" in kinds:
        found["preds"] = output.preds(found["probs"]) if "probs" in found else output.preds_of(logits)
    return {kind: found[kind] for kind in kinds}


@dataclass(frozen=True)
class Block:
    """Tasks that are answered together.

    Attributes:
        tasks: Their names.
        kinds: What is wanted of them.
        examples: Along which dimension of what is answered the examples lie: the first, or the last where the tasks are
            sibling linear heads with a softmax each, of which ``[tasks, …, n]`` is answered.
    """

    tasks: tuple[str, ...]
    kinds: tuple[str, ...]
    examples: int = 0

    def of_task(self, answered: torch.Tensor, place: int) -> torch.Tensor:
        """Return the part ``[n, …]`` of what was answered that is of the task at a place among them."""
        return answered[place].movedim(-1, 0) if self.examples else answered


@dataclass(frozen=True)
class _Product:
    """Several heads as one linear map: ``weight [tasks · width, features]`` and ``bias [tasks · width]``."""

    source: Source
    weight: torch.Tensor
    bias: torch.Tensor | None

    def of(self, value: Any) -> torch.Tensor:
        """Return what the heads put out for what they read, ``[n, …, features]``, as ``[tasks · width, …, n]``."""
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or self.bias is None:
            return functional.linear(value, self.weight, self.bias).movedim((-1, 0), (0, -1))
        return torch.addmm(self.bias.unsqueeze(1), self.weight, value.t())


class Inference:
    """Answers several tasks' kinds batch by batch, while the model's weights stay as they are.

    Sibling linear heads with a softmax are one product, and one softmax, with the examples last: along few classes
    torch takes many times as long as along many examples. The model must be in evaluation mode.

    Args:
        network: The model.
        kinds: For each task which of ``"logits"``, ``"probs"`` and ``"preds"`` are wanted.

    Attributes:
        blocks: The tasks in the groups in which they are answered.
    """

    def __init__(self, network: TaskNetwork, kinds: Mapping[str, Sequence[str]]) -> None:
        self._network = network
        self._device = network.device
        self._gpus = gpus_beside(self._device) if network.config.dataparallel else []
        self._forwards: dict[str, Callable[..., Any]] = {}
        self._traits = PathTraits.of(network, list(kinds))
        # None until it is found out.
        self._independent = True if self._traits.row_by_row else None
        self._products: dict[tuple[str, ...], _Product] = {}
        self._without: set[int] = set()
        if len(kinds) > 1 and len(self._gpus) < 2:
            for heads in linear_heads(network, kinds):
                self._join(heads)
        self._nodes = network.plan.schedule(kinds, self._without)
        fused = {name for tasks in self._products for name in tasks}
        self.blocks = [
            *(Block(tasks, _all_of(kinds[name] for name in tasks), -1) for tasks in self._products),
            *(Block((name,), tuple(kinds[name])) for name in kinds if name not in fused),
        ]

    def reading(
        self, loader: DictDataLoader, labels: Iterable[str], *, in_any_order: bool = False
    ) -> SplitReading:
        """Return the reading of a split, and of some of its label sets, that :meth:`answers` goes through.

        The loader's order is kept where a row's answer may depend on its neighbours, even if any would do.
        """
        in_any_order &= self._traits.row_by_row and not self._traits.hooked
        return SplitReading(loader, labels, self._traits.writes, in_any_order=in_any_order)

    def answers(self, reading: SplitReading) -> Iterator[list[dict[str, Any]]]:
        """Answer a split batch by batch, as :meth:`__call__` answers each; further kinds may be among the answers.

        Where rows are not known to be computed each by itself, the first two batches are answered both one by one and
        together, once for all splits. Only if nothing differs, batches are larger than the loader's from there on.
        """
        rows = self._traits.rows_at_once(reading.loader)
        batches = iter(reading)
        if self._independent is None and rows is not None:
            yield from self._tried(list(islice(batches, 2)))
        if self._independent:
            reading.rows = rows
        for X_dict in batches:
            yield self(X_dict)

    def _tried(self, batches: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
        """Answer the first two batches, if there are, and find out whether each row is computed by itself."""
        if len(batches) < 2:
            return [self(X_dict) for X_dict in batches]
        # Before a module writes to them.
        together = {name: torch.cat([X_dict[name] for X_dict in batches]) for name in batches[0]}
        # Predictions hide what differs, as long as the likeliest class does not.
        blocks = [replace(block, kinds=_all_of([("logits", "probs"), block.kinds])) for block in self.blocks]
        apart = [self._answers(X_dict, blocks) for X_dict in batches]
        # The trial is not to be noticed: what draws at random goes on as if there had been none.
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            try:
                self._independent = all(map(_agree, blocks, self._answers(together, blocks), *apart))
            except MODULE_FAILURES:
                self._independent = False
        return apart

    def _join(self, heads: Heads) -> None:
        """Make one product of those heads that have a softmax and go together."""
        tasks = self._network.tasks
        chosen = [i for i, name in enumerate(heads.tasks) if type(tasks[name].output_func) is Softmax]
        modules = [cast("nn.Linear", self._network.module_pool[heads.modules[i]]) for i in chosen]
        if len(chosen) < 2 or len({(m.weight.shape, m.weight.dtype, m.weight.device) for m in modules}) > 1:
            return
        with torch.inference_mode():
            weight = torch.cat([module.weight for module in modules])
            bias = torch.cat([module.bias for module in modules]) if heads.has_bias else None
        self._products[tuple(heads.tasks[i] for i in chosen)] = _Product(heads.source, weight, bias)
        self._without.update(heads.nodes[i] for i in chosen)

    def __call__(self, X_dict: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return for each block what is wanted of it, by kind, for a batch of fields; tensors on the CPU.

        Raises:
            OperationError: If an operation fails on its inputs.
        """
        return self._answers(X_dict, self.blocks)

    def _answers(self, X_dict: Mapping[str, Any], blocks: Iterable[Block]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            fields = fields_on(self._device, X_dict)
            computed = self._network.plan.execute(self._nodes, fields, self._call)
            return [self._answered(block, fields, computed) for block in blocks]

    def _call(self, module_name: str, inputs: list[Any]) -> Any:
        if len(self._gpus) > 1:
            return call(self._network.module_pool[module_name], inputs, self._gpus)
        if module_name not in self._forwards:
            self._forwards[module_name] = forward_of(self._network.module_pool[module_name])
        return self._forwards[module_name](*inputs)

    def _answered(
        self, block: Block, fields: Mapping[str, Any], computed: Mapping[int, Any]
    ) -> dict[str, Any]:
        name = block.tasks[0]
        output = self._network.tasks[name].output_func
        if block.tasks not in self._products:
            return answer(output, computed[self._network.plan.output_node(name)], block.kinds)
        product = self._products[block.tasks]
        try:
            logits = product.of(value_of(product.source, fields, computed))
        except MODULE_FAILURES:
            # One by one, whichever it is says what is wrong.
            self._network.plan.run(fields, block.tasks, self._call)
            raise
        by_task = logits.view(len(block.tasks), -1, *logits.shape[1:])
        if by_task.ndim == 3:
            return answer(output, by_task, block.kinds)
        # An output function sees classes or vectors along the last dimension then.
        each = [answer(output, of_task.movedim((-1, 0), (0, -1)), block.kinds) for of_task in by_task]
        return {kind: torch.stack([one[kind].movedim(0, -1) for one in each]) for kind in block.kinds}


def _all_of(kinds: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for of_task in kinds for kind in of_task))


def _agree(block: Block, together: Mapping[str, Any], *apart: Mapping[str, Any]) -> bool:
    """Say whether answers to several batches are those to all of their rows together, but for rounding."""
    return all(
        is_close(torch.cat(parts, dim=block.examples), whole)
        for kind, answered in together.items()
        for whole, *parts in zip(tensors_in(answered), *(tensors_in(one[kind]) for one in apart), strict=True)
    )


def is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are equal, but for the rounding of floating-point numbers."""
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    # Sums round by the size of their terms, of which the largest answer gives an idea.
    size = other.abs().nan_to_num(0, 0).amax().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size, equal_nan=True)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, in nested dicts, lists and tuples too."""
    found: list[torch.Tensor] = []
    map_tensors(value, found.append)
    return found


def _full_precision(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
