"""Parameters and gradients that lie one after the other in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import nn


class FlatParameters:
    """Some parameters of one dtype and device, moved into one tensor, with another one for their gradients.

    Args:
        parameters: The parameters, in the order in which they are to lie.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        self._starts = dict(zip(self.parameters, accumulate(sizes, initial=0), strict=False))
        like = self.parameters[0].detach()
        self.values = like.new_empty(sum(sizes))
        self.gradients = torch.zeros_like(self.values)
        for parameter in self.parameters:
            place = self.values_of(parameter)
            place.copy_(parameter.detach())
            parameter.data = place

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return parameter in self._starts

    def values_of(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return the view of a parameter's values, of its shape."""
        return self._view(self.values, parameter)

    def gradient_of(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return the view of a parameter's gradient, of its shape."""
        return self._view(self.gradients, parameter)

    def are_consecutive(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Say whether parameters are here and lie one after the other."""
        ends = [self._starts.get(parameter, -1) + parameter.numel() for parameter in parameters]
        starts = [self._starts.get(parameter, -1) for parameter in parameters]
        return -1 not in starts and ends[:-1] == starts[1:]

    def joined(self, parameters: Sequence[nn.Parameter]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values and gradients of consecutive parameters as one, ``[sum of first dimensions, …]``."""
        values, gradients = self.span(parameters)
        tail = parameters[0].shape[1:]
        return values.view(-1, *tail), gradients.view(-1, *tail)

    def span(self, parameters: Sequence[nn.Parameter]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values and gradients ``[n]`` of consecutive parameters."""
        start = self._starts[parameters[0]]
        end = self._starts[parameters[-1]] + parameters[-1].numel()
        return self.values[start:end], self.gradients[start:end]

    def release(self) -> None:
        """Give every parameter memory of its own again."""
        for parameter in self.parameters:
            parameter.data = parameter.detach().clone()

    def _view(self, flat: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        start = self._starts[parameter]
        return flat[start : start + parameter.numel()].view(parameter.shape)
