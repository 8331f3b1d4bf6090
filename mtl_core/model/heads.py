"""Linear heads of one input and one width, which are computed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import nn

from mtl_core.model.network import TaskNetwork
from mtl_core.model.plan import EverythingInput, Source


@dataclass(frozen=True)
class Heads:
    """Sibling heads: linear modules at the ends of tasks' paths that read one input and put out equally many numbers.

    Attributes:
        source: What they read.
        width: How many numbers each puts out.
        has_bias: Whether they add one.
        tasks: The tasks that end in them.
        nodes: Each one's node in the plan, in the order of the tasks.
        modules: Each one's module, by name, in the order of the tasks.
    """

    source: Source
    width: int
    has_bias: bool
    tasks: tuple[str, ...]
    nodes: tuple[int, ...]
    modules: tuple[str, ...]


def linear_heads(network: TaskNetwork, task_names: Iterable[str]) -> list[Heads]:
    """Return the linear heads of some tasks, siblings together; other tasks appear in none.

    A head is a plain ``nn.Linear``, without hooks, that one of the tasks ends in and that nothing else on their paths
    calls.

    Args:
        network: Has the tasks.
        task_names: Whose heads are wanted; siblings keep this order.
    """
    names = list(task_names)
    plan = network.plan
    scheduled = plan.schedule(names)
    read = {needed for node in scheduled for needed in plan.nodes[node].needs()}
    ends = Counter(plan.output_node(name) for name in names)
    calls = Counter(plan.nodes[node].module_name for node in scheduled)
    found: dict[tuple[Source, int, bool], list[tuple[str, int, str]]] = {}
    for name in names:
        index = plan.output_node(name)
        node = plan.nodes[index]
        module = network.module_pool[node.module_name]
        alone = index not in read and ends[index] == 1 and calls[node.module_name] == 1
        if not alone or type(module) is not nn.Linear or has_hooks(module) or len(node.sources) != 1:
            continue
        source = node.sources[0]
        if not isinstance(source, EverythingInput):
            key = (source, module.out_features, cast("object", module.bias) is not None)
            found.setdefault(key, []).append((name, index, node.module_name))
    return [
        Heads(
            source,
            width,
            has_bias,
            *cast("tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]", zip(*of, strict=True)),
        )
        for (source, width, has_bias), of in found.items()
    ]


def has_hooks(module: nn.Module) -> bool:
    """Say whether calling a module does more than its class says."""
    state = vars(module)
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
    )
