"""Patience: the best evaluation by a watched metric, and how long it has not been beaten."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.weights import load_module_weights, module_weights
from mtl_core.training.config import EarlyStoppingConfig
from mtl_core.training.watched_metrics import WatchedMetric


class Evaluation:
    """An evaluation that the model can be put back to.

    Args:
        number: Its number in the training, from 1.
        model: The model, with the weights that were evaluated.
        values: The watched metric of each task; None where it is undefined.
    """

    def __init__(self, number: int, model: MultitaskClassifier, values: Mapping[str, float | None]) -> None:
        self.number = number
        self.values = dict(values)
        self._model = model
        self._weights: dict[str, torch.Tensor] | None = None

    @property
    def mean(self) -> float | None:
        """The mean of the tasks' values; None where one is undefined."""
        values = [value for value in self.values.values() if value is not None]
        return math.fsum(values) / len(values) if values and len(values) == len(self.values) else None

    def keep(self) -> None:
        """Keep the weights that the model has now, those evaluated."""
        if self._weights is None:
            self._weights = module_weights(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return number, values and the weights that were kept."""
        return {"number": self.number, "values": self.values, "weights": self._weights}

    @classmethod
    def of_state(cls, model: MultitaskClassifier, state: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation of a model that :meth:`state_dict` was asked for."""
        evaluation = cls(state["number"], model, state["values"])
        evaluation._weights = state["weights"]
        return evaluation

    def put_back(self) -> None:
        """Give the model the weights that were kept."""
        assert self._weights is not None
        load_module_weights(self._model, self._weights)


class Patience:
    """The best evaluation by one metric, and how many have passed since.

    Args:
        metric: Says which of two values is better.
        config: How long to wait, and what an improvement has to exceed.

    Attributes:
        metric: As given.
        best: The best evaluation so far; None before the first.
        waited: Evaluations since the best one.
    """

    def __init__(self, metric: WatchedMetric, config: EarlyStoppingConfig) -> None:
        self.metric = metric
        self.best: Evaluation | None = None
        self.waited = 0
        self._value: float | None = None
        self._config = config

    @property
    def is_over(self) -> bool:
        """Whether ``patience`` evaluations have passed without an improvement."""
        return self.waited >= self._config.patience

    def hear(self, evaluation: Evaluation, value: float | None) -> None:
        """Hear of an evaluation and the metric's value there; None, for undefined, is no improvement on anything."""
        if self.best is None or self.metric.better(value, self._value, self._config.min_delta):
            self.start_at(evaluation, value)
        else:
            self.waited += 1

    def start_at(self, evaluation: Evaluation, value: float | None) -> None:
        """Count from an evaluation on, as the best so far."""
        evaluation.keep()
        self.best, self._value, self.waited = evaluation, value, 0

    def state_dict(self) -> dict[str, Any]:
        """Return how long was waited, and since which evaluation, by its number: others may share it."""
        return {
            "best": None if self.best is None else self.best.number,
            "value": self._value,
            "waited": self.waited,
        }

    def load_state_dict(self, state: Mapping[str, Any], evaluations: Mapping[int, Evaluation]) -> None:
        """Go on from what :meth:`state_dict` returned, with the evaluations by their numbers."""
        self.best = None if state["best"] is None else evaluations[state["best"]]
        self._value, self.waited = state["value"], state["waited"]

    def __str__(self) -> str:
        at = "" if self.best is None else f" at evaluation {self.best.number}"
        return f"{self.metric} is {_shown(self._value)}{at}"


def best_evaluations(patiences: Iterable[Patience]) -> list[dict[str, Any]]:
    """Return the states of the best evaluations, each once."""
    best = {patience.best.number: patience.best for patience in patiences if patience.best is not None}
    return [evaluation.state_dict() for evaluation in best.values()]


def evaluations_of(model: MultitaskClassifier, states: Iterable[Mapping[str, Any]]) -> dict[int, Evaluation]:
    """Return evaluations by their numbers, from what :func:`best_evaluations` returned."""
    return {state["number"]: Evaluation.of_state(model, state) for state in states}


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
