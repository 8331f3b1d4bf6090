"""What a model answers in evaluation mode: logits, probabilities and predictions, of many tasks at once."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from mtl_core.data import DictDataLoader
from mtl_core.errors import MODULE_FAILURES
from mtl_core.model.cut import Cut
from mtl_core.model.devices import call, gpus_beside, map_tensors, to_device
from mtl_core.model.heads import Heads, linear_heads
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


def answer(output: Output, logits: Any, kinds: Collection[str]) -> dict[str, Any]:
    """Return what is wanted of one task, by kind, on the CPU.

    Args:
        output: The task's output function.
        logits: What its last operation answered.
        kinds: Which of ``"logits"``, ``"probs"`` and ``"preds"`` are wanted.

    Returns:
        Tensors ``[n, …]``, in float32 where the logits are in half precision.
    """
    logits = map_tensors(logits, _full_precision)
    found: dict[str, Any] = {"logits": logits}
    if "probs" in kinds:
        found["probs"] = output(logits)
    if "preds" in kinds:
        found["preds"] = output.preds(found["probs"]) if "probs" in found else output.preds_of(logits)
    return {kind: to_device(found[kind], _CPU) for kind in kinds}


@dataclass(frozen=True)
class Block:
    """Tasks that are answered together.

    Attributes:
        tasks: Their names. Several are sibling linear heads with a softmax each, and what is answered of them is
            ``[n, tasks, …]``; one alone is answered as ``[n, …]``.
        kinds: What is wanted of them.
    """

    tasks: tuple[str, ...]
    kinds: tuple[str, ...]

    def of_task(self, answered: torch.Tensor, place: int) -> torch.Tensor:
        """Return the part ``[n, …]`` of what was answered that is of the task at a place among them."""
        # Of no example at all, nothing was answered.
        return answered if len(self.tasks) == 1 or not len(answered) else answered[:, place]


@dataclass(frozen=True)
class _Product:
    """Several heads as one linear map: ``weight [tasks · width, features]`` and ``bias [tasks · width]``."""

    source: Source
    weight: torch.Tensor
    bias: torch.Tensor | None


class Inference:
    """Answers several tasks' kinds batch by batch, while the model's weights stay as they are.

    Sibling linear heads with a softmax are one product, and one softmax. The model must be in evaluation mode.

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
        self._modules = dict(network.module_pool.items())
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
            *(Block(tasks, _all_of(kinds[name] for name in tasks)) for tasks in self._products),
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
        blocks = [Block(block.tasks, _all_of([("logits", "probs"), block.kinds])) for block in self.blocks]
        apart = [self._answers(X_dict, blocks) for X_dict in batches]
        # The trial is not to be noticed: what draws at random goes on as if there had been none.
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            try:
                self._independent = _agree(apart, self._answers(together, blocks))
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
        return call(self._modules[module_name], inputs, self._gpus)

    def _answered(
        self, block: Block, fields: Mapping[str, Any], computed: Mapping[int, Any]
    ) -> dict[str, Any]:
        name = block.tasks[0]
        output = self._network.tasks[name].output_func
        if block.tasks not in self._products:
            return answer(output, computed[self._network.plan.output_node(name)], block.kinds)
        product = self._products[block.tasks]
        try:
            value = value_of(product.source, fields, computed)
            logits = functional.linear(value, product.weight, product.bias)
        except MODULE_FAILURES:
            # One by one, whichever it is says what is wrong.
            self._network.plan.run(fields, block.tasks, self._call)
            raise
        # Each task's numbers are a column of what its head puts out for each example, whatever lies between.
        n, h = len(logits), len(block.tasks)
        by_task: torch.Tensor = logits.reshape(*logits.shape[:-1], h, -1).movedim(-2, 1)
        if logits.ndim > 2:
            by_kind = [answer(output, by_task[:, i], block.kinds) for i in range(h)]
            return {kind: torch.stack([one[kind] for one in by_kind], dim=1) for kind in block.kinds}
        found = answer(output, by_task.flatten(0, 1), block.kinds)
        return {kind: tensor.reshape(n, h, *tensor.shape[1:]) for kind, tensor in found.items()}


def _all_of(kinds: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for of_task in kinds for kind in of_task))


def _agree(apart: Sequence[Any], together: Any) -> bool:
    """Say whether answers ``[n, …]`` to several batches are those to all of their rows together, but for rounding."""
    parts = zip(*map(_tensors, apart), strict=True)
    return all(
        _is_close(torch.cat(part), whole) for part, whole in zip(parts, _tensors(together), strict=True)
    )


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return torch.equal(one, other)
    # Sums round by the size of their terms, of which the largest answer gives an idea.
    size = other.abs().nan_to_num(0, 0).amax().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * size, equal_nan=True)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value, in nested dicts, lists and tuples too."""
    found: list[torch.Tensor] = []
    map_tensors(value, found.append)
    return found


def _full_precision(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
