"""Early stopping: what all kinds of it have in common, and that of the whole model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

import torch

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.config import TrainerConfig
from mtl_core.training.patience import Evaluation, Patience, best_evaluations, evaluations_of
from mtl_core.training.watched_metrics import WatchedMetric


class Stopper(Protocol):
    """Says when training ends, and with which weights.

    Attributes:
        ended: Whether training is to end.
        peaked: The tasks whose own losses count no more.
    """

    ended: bool
    peaked: Collection[str]

    def hear(self, metrics: Mapping[str, float]) -> None:
        """Hear of an evaluation, while the model has the weights that were evaluated.

        Raises:
            TaskloomError: If a watched metric is not among the metrics; names those that are.
        """
        ...

    def act(self) -> list[str]:
        """Do what the last evaluation calls for, while the model has the weights that train; return lines to log."""
        ...

    def losses(self, X_dict: Mapping[str, Any], labelled: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return what stands in the place of the losses of tasks that have peaked.

        Args:
            X_dict: A batch's fields, ``[n, …]``.
            labelled: The tasks that the batch has labels for.

        Returns:
            A scalar by task, to be added to the losses of the other tasks.
        """
        ...

    def finish(self) -> list[str]:
        """Put the model back to its best evaluation at the end of training; return lines to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what was heard and done so far."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, when the model has its weights of then."""
        ...


class NoStopper:
    """Lets training go on to its last epoch, and leaves the model as that made it."""

    ended: bool = False
    peaked: Collection[str] = ()

    def hear(self, metrics: Mapping[str, float]) -> None:
        """Pay no attention."""

    def act(self) -> list[str]:
        """Do nothing."""
        return []

    def losses(self, X_dict: Mapping[str, Any], labelled: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return nothing: no task's loss is replaced."""
        return {}

    def finish(self) -> list[str]:
        """Do nothing."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class ModelStopper(NoStopper):
    """Ends training when the watched metric has not improved for ``patience`` evaluations, with the best weights.

    Args:
        config: The trainer's settings.
        model: The model.
    """

    def __init__(self, config: TrainerConfig, model: MultitaskClassifier) -> None:
        settings = config.early_stopping_config
        metric = WatchedMetric.parse(settings.metric or f"model/all/{config.valid_split}/loss:min")
        self._model = model
        self._patience = Patience(metric, settings)
        self._evaluations = 0

    def hear(self, metrics: Mapping[str, float]) -> None:
        """Hear of an evaluation."""
        self._evaluations += 1
        evaluation = Evaluation(self._evaluations, self._model, {})
        self._patience.hear(evaluation, self._patience.metric.value(metrics))
        self.ended = self._patience.is_over

    def finish(self) -> list[str]:
        """Put the model back to its best evaluation."""
        best = self._patience.best
        if best is None:
            return []
        best.put_back()
        return [f"early stopping ends with the best weights: {self._patience}"]

    def state_dict(self) -> dict[str, Any]:
        """Return the best evaluation, and how long was waited since."""
        return {
            "evaluations": self._evaluations,
            "best": best_evaluations([self._patience]),
            "patience": self._patience.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._evaluations = state["evaluations"]
        self._patience.load_state_dict(state["patience"], evaluations_of(self._model, state["best"]))
        self.ended = self._patience.is_over
