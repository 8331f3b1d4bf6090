"""A running mean of a model's weights, which often predicts better than the weights themselves."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mtl_core.model.classifier import MultitaskClassifier


class WeightAverage:
    """The exponential moving average of a model's trained parameters; buffers are taken as they are.

    After ``n`` updates the mean keeps ``min(decay, (1 + n) / (10 + n))`` of itself at the next one, so that the
    weights that training began with are soon forgotten.

    Args:
        model: The model; those of its parameters are averaged that want gradients now.
        decay: Share of itself that the mean keeps at every update, at least 0 and below 1.

    Source:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; the smaller shares at the
        beginning as in TensorFlow's ``ExponentialMovingAverage``.

    Example:
        >>> from torch import nn
        >>> from mtl_core import Operation, Task
        >>> head = nn.Linear(1, 1, bias=False)
        >>> model = MultitaskClassifier([Task("t", {"head": head}, [Operation("head", [("_input_", "x")])])], device=-1)
        >>> weight = model.module_pool["head"].weight
        >>> _ = nn.init.zeros_(weight)
        >>> average = WeightAverage(model, decay=0.5)
        >>> _ = nn.init.ones_(weight)
        >>> average.update()
        >>> with average.in_place():
        ...     print(round(weight.item(), 3))
        0.9
        >>> weight.item()
        1.0
    """

    def __init__(self, model: MultitaskClassifier, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._updates = 0
        self._means = {
            parameter: parameter.detach().clone()
            for parameter in model.parameters()
            if parameter.requires_grad
        }

    def update(self) -> None:
        """Take the weights of now into the mean."""
        share = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        with torch.no_grad():
            for parameter, mean in self._means.items():
                mean.lerp_(parameter, share)

    def restart(self, modules: Iterable[str]) -> None:
        """Begin anew with the weights that modules have now, after they were put back to others."""
        with torch.no_grad():
            for name in modules:
                for parameter in self._model.module_pool[name].parameters():
                    if parameter in self._means:
                        self._means[parameter].copy_(parameter)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, and how often it was updated."""
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        means = {names[parameter]: mean.to("cpu", copy=True) for parameter, mean in self._means.items()}
        return {"means": means, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._updates = state["updates"]
        parameters = dict(self._model.named_parameters())
        for name, mean in state["means"].items():
            self._means[parameters[name]].copy_(mean)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Put the mean in the model for the block, and the weights back, bit for bit, at its end."""
        weights = {parameter: parameter.detach().clone() for parameter in self._means}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weight in weights.items():
                    parameter.copy_(weight)

    def apply(self) -> None:
        """Put the mean in the model for good."""
        with torch.no_grad():
            for parameter, mean in self._means.items():
                parameter.copy_(mean)
