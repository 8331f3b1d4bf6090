"""Losses of sibling linear heads of one kind and width, computed together: one product and one loss for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mtl_core.data import UNLABELLED, is_given
from mtl_core.losses.plain import LossKind, kind_of
from mtl_core.model.heads import linear_heads
from mtl_core.model.network import TaskNetwork
from mtl_core.model.plan import Source, value_of


@dataclass(frozen=True)
class JointHeads:
    """Heads whose losses are computed together.

    Attributes:
        kind: The loss of each.
        source: What they read.
        width: Outputs of each.
        tasks: Their tasks.
        nodes: Each one's node in the plan.
        modules: Each one's module.
    """

    kind: LossKind
    source: Source
    width: int
    tasks: tuple[str, ...]
    nodes: tuple[int, ...]
    modules: tuple[nn.Linear, ...]

    def losses(
        self, X_dict: Mapping[str, Any], computed: Mapping[int, Any], labels: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return the tasks' losses ``[t]``.

        Args:
            X_dict: The batch's fields.
            computed: Output by node, of what the heads read.
            labels: Each task's labels, ``[n]`` or ``[n, …]``, with at least one given.
        """
        weight = torch.cat([module.weight for module in self.modules])
        biases = [bias for module in self.modules for bias in _bias_of(module)]
        bias = torch.cat(biases) if biases else None
        outputs = F.linear(value_of(self.source, X_dict, computed), weight, bias)
        n, n_tasks = len(outputs), len(self.tasks)
        # Along many examples torch's softmax takes half the time, or less, that it takes along few classes.
        by_task = outputs.t().reshape(n_tasks, self.width, n)
        if self.kind.name == "cross_entropy":
            classes = torch.stack(list(labels)).to(outputs.device)
            losses = F.cross_entropy(*(by_task, classes.long()), ignore_index=UNLABELLED, reduction="none")
            given = classes != UNLABELLED
        else:
            targets = torch.stack([of.view(n, self.width).t() for of in labels]).to(outputs.device)
            given = is_given(targets)
            targets = torch.where(given, targets, 0).to(outputs.dtype)
            loss = F.mse_loss if self.kind.name == "mse" else F.binary_cross_entropy_with_logits
            losses = torch.where(given, loss(by_task, targets, reduction="none"), 0)
        sums = losses.flatten(1).sum(1)
        return sums if self.kind.reduction == "sum" else sums / given.flatten(1).sum(1)


def joint_heads(network: TaskNetwork, labels: Mapping[str, torch.Tensor]) -> list[JointHeads]:
    """Return the heads of a batch whose losses can be computed together, two of them or more.

    Args:
        network: Has the tasks.
        labels: The batch's labels by task.
    """
    found: list[JointHeads] = []
    for heads in linear_heads(network, labels) if len(labels) > 1 else ():
        by_kind: dict[tuple[LossKind, object], list[tuple[str, int, nn.Linear]]] = {}
        for task, node, name in zip(heads.tasks, heads.nodes, heads.modules, strict=True):
            kind = kind_of(network.tasks[task].loss_func)
            module = cast("nn.Linear", network.module_pool[name])
            if kind and kind.fits(labels[task], heads.width):
                like = (module.weight.dtype, module.weight.shape, labels[task].dtype)
                by_kind.setdefault((kind, like), []).append((task, node, module))
        for (kind, _), of_kind in by_kind.items():
            tasks, nodes, modules = zip(*of_kind, strict=True)
            if len(tasks) > 1:
                found.append(JointHeads(kind, heads.source, heads.width, tasks, nodes, modules))
    return found


def _bias_of(module: nn.Linear) -> list[torch.Tensor]:
    bias = cast("torch.Tensor | None", module.bias)
    return [] if bias is None else [bias]
