"""A forward pass cut where the paths of several tasks part, so that each side can be differentiated by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from mtl_core.model.devices import map_tensors


@dataclass
class Cut:
    """What tasks share ends here: the shared representation, once as it came and once as leaves.

    Attributes:
        outputs: What the last shared operations put out, part of the graph of all that is shared.
        leaves: The same values, each a leaf that wants a gradient; whatever follows was computed from them.
    """

    outputs: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    leaves: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    def through(self, value: Any) -> Any:
        """Return an operation's output with a leaf for every tensor in it that depends on a parameter."""
        return map_tensors(value, self._leaf)

    def _leaf(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.requires_grad:
            return tensor
        leaf = tensor.detach().requires_grad_()
        self.outputs.append(tensor)
        self.leaves.append(leaf)
        return leaf
