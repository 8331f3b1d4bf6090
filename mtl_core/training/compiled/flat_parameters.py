"""Parameters and gradients that lie one after the other in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn


class FlatParameters:
    """Some parameters of one dtype and device, moved into one tensor, with memory for their gradients.

    Args:
        parameters: The parameters, in the order in which they are to lie.

    Attributes:
        parameters: See above.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._places = _places(self.parameters)
        like = self.parameters[0].detach()
        self._values = like.new_empty(sum(parameter.numel() for parameter in self.parameters))
        self._gradients = torch.zeros_like(self._values)
        for parameter in self.parameters:
            place = self.values([parameter]).view(parameter.shape)
            place.copy_(parameter.detach())
            parameter.data = place

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return parameter in self._places

    def are_consecutive(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Say whether parameters are here and lie one after the other."""
        if not all(parameter in self._places for parameter in parameters):
            return False
        return all(self.follows(parameter, other) for other, parameter in pairwise(parameters))

    def follows(self, parameter: nn.Parameter, other: nn.Parameter) -> bool:
        """Say whether a parameter lies right behind another."""
        return self._places[parameter][0] == self._places[other][1]

    def values(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        """Return the values ``[n]`` of consecutive parameters."""
        return self._values[self._places[parameters[0]][0] : self._places[parameters[-1]][1]]

    def gradients(self, parameters: Iterable[nn.Parameter]) -> Gradients:
        """Return memory for the gradients of some parameters, side by side; all share it that ask."""
        chosen = {self._places[p]: p for p in parameters if p in self._places}
        return Gradients([chosen[place] for place in sorted(chosen)], self._gradients)

    def release(self) -> None:
        """Give every parameter memory of its own again."""
        for parameter in self.parameters:
            parameter.data = parameter.detach().clone()


class Gradients:
    """The gradients of some parameters, side by side in their order.

    Args:
        parameters: The parameters.
        memory: As many numbers as they have, or more.

    Attributes:
        parameters: See above.
        all: All of them, ``[n]``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], memory: torch.Tensor) -> None:
        self.parameters = parameters
        self._places = _places(parameters)
        self.all = memory[: sum(parameter.numel() for parameter in parameters)]
        self._written: set[nn.Parameter] = set()

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return parameter in self._places

    def of(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        """Return the gradients of consecutive parameters as one, ``[sum of first dimensions, …]``."""
        return self.span(parameters).view(-1, *parameters[0].shape[1:])

    def span(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        """Return the gradients ``[n]`` of consecutive parameters."""
        return self.all[self._places[parameters[0]][0] : self._places[parameters[-1]][1]]

    def beta(self, parameter: nn.Parameter) -> int:
        """Return by what to multiply what stands in a parameter's place, and take note that it is written to.

        What several layers share has the sum of their gradients.
        """
        again = parameter in self._written
        self._written.add(parameter)
        return int(again)


def _places(parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, tuple[int, int]]:
    """Return where parameters that lie one after the other start and end."""
    ends = list(accumulate((parameter.numel() for parameter in parameters), initial=0))
    return dict(zip(parameters, pairwise(ends), strict=True))
