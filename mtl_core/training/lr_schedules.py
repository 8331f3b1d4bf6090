"""Learning-rate schedules as functions of the batch: any batch's is computed without replaying the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mtl_core.training.config import OneCycleConfig, PlateauConfig, TrainerConfig
from mtl_core.training.watched_metrics import WatchedMetric


class LRSchedule:
    """The learning rates of one training.

    Args:
        config: The trainer's settings.
        n_steps: Batches of the whole training.
        steps_per_epoch: Batches of one epoch.

    Attributes:
        warmup_steps: Batches of the warm-up.
        plateau: The state of the ``plateau`` schedule; None with the others.

    Example:
        >>> schedule = LRSchedule(TrainerConfig(lr=0.1, lr_scheduler="linear"), n_steps=4, steps_per_epoch=2)
        >>> [round(schedule.rate(step), 3) for step in range(4)]
        [0.1, 0.075, 0.05, 0.025]
    """

    def __init__(self, config: TrainerConfig, n_steps: int, steps_per_epoch: int) -> None:
        self._config = config
        self._n_steps = n_steps
        self._steps_per_epoch = steps_per_epoch
        self.warmup_steps = warmup_steps(config, n_steps, steps_per_epoch)
        self.plateau: Plateau | None = None
        if config.lr_scheduler == "plateau":
            self.plateau = Plateau(config.lr_scheduler_config.plateau_config, config.valid_split)

    def rate(self, step: int) -> float:
        """Return the learning rate of a batch, numbered from 0 at the start of training."""
        factor = self.plateau.factor if self.plateau else 1.0
        return learning_rate(self._config, step, self._n_steps, self._steps_per_epoch, factor)

    def hear(self, metrics: Mapping[str, float]) -> bool:
        """Hear of an evaluation, and say whether the schedule lowers the learning rate because of it.

        Raises:
            TaskloomError: If the metric that ``plateau`` watches is not among them.
        """
        return self.plateau is not None and self.plateau.hear(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return what does not follow from the number of the batch alone."""
        return self.plateau.state_dict() if self.plateau else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        if self.plateau:
            self.plateau.load_state_dict(state)


def learning_rate(
    config: TrainerConfig, step: int, n_steps: int, steps_per_epoch: int, plateau: float = 1.0
) -> float:
    """Return the learning rate of one batch.

    Args:
        config: The trainer's settings.
        step: The batch's number from the start of training, from 0.
        n_steps: Batches of the whole training.
        steps_per_epoch: Batches of one epoch.
        plateau: The factor of the ``plateau`` schedule so far; others do not look at it.

    Returns:
        A linear warm-up to ``lr``, then the schedule, never below ``min_lr``.

    Source:
        ``cosine``: Loshchilov and Hutter, SGDR, 2017, without restarts; ``one_cycle``: Smith and Topin,
        Super-Convergence, 2019, each half of the cycle along a cosine.

    Example:
        >>> config = TrainerConfig(lr=0.1, lr_scheduler="cosine", lr_scheduler_config={"min_lr": 0.02})
        >>> [round(learning_rate(config, step, 4, 2), 3) for step in range(5)]
        [0.1, 0.088, 0.06, 0.032, 0.02]
    """
    settings = config.lr_scheduler_config
    warmup = warmup_steps(config, n_steps, steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    since, length = step - warmup, max(n_steps - warmup, 1)
    match config.lr_scheduler:
        case "constant":
            rate = config.lr
        case "linear":
            rate = config.lr * (1 - since / length)
        case "exponential":
            rate = config.lr * settings.exponential_config.gamma**since
        case "step":
            rate = config.lr * settings.step_config.gamma ** (since // settings.step_config.step_size)
        case "cosine":
            rate = _cosine(config.lr, settings.min_lr, since / length)
        case "one_cycle":
            rate = config.lr * _one_cycle(settings.one_cycle_config, since, length)
        case "plateau":
            rate = config.lr * plateau
    return max(rate, settings.min_lr)


def warmup_steps(config: TrainerConfig, n_steps: int, steps_per_epoch: int) -> int:
    """Return how many batches the warm-up takes."""
    settings = config.lr_scheduler_config
    if settings.warmup_steps:
        return int(settings.warmup_steps * (steps_per_epoch if settings.warmup_unit == "epochs" else 1))
    return int(settings.warmup_percentage * n_steps)


class Plateau:
    """A factor on the learning rate that falls whenever a watched metric has stopped improving.

    Args:
        config: The schedule's settings.
        valid_split: The split whose loss is watched where the settings name no metric.

    Attributes:
        factor: The factor so far.
        best: The best value of the metric so far; None before the first.
        waited: Evaluations since the last improvement, or since the factor fell last.
    """

    def __init__(self, config: PlateauConfig, valid_split: str = "valid") -> None:
        self._config = config
        self._metric = WatchedMetric.parse(config.metric or f"model/all/{valid_split}/loss:min")
        self.factor = 1.0
        self.best: float | None = None
        self.waited = 0

    def hear(self, metrics: Mapping[str, float]) -> bool:
        """Hear of an evaluation, and say whether the factor falls because of it.

        Raises:
            TaskloomError: If the metric is not among them.
        """
        value = self._metric.value(metrics)
        if self._metric.better(value, self.best, self._config.threshold):
            self.best, self.waited = value, 0
            return False
        self.waited += 1
        if self.waited < self._config.patience:
            return False
        self.factor, self.waited = self.factor * self._config.factor, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, and what it depends on."""
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.factor, self.best, self.waited = state["factor"], state["best"], state["waited"]


def _one_cycle(config: OneCycleConfig, since: int, length: int) -> float:
    """Return the share of ``lr`` at a batch of the cycle, whose first has the number 0."""
    start = 1 / config.div_factor
    # The peak's and the last batch's numbers: both are met exactly.
    peak, last = config.pct_start * length - 1, length - 1
    if since < peak:
        return _cosine(start, 1, since / peak)
    falling = last - max(peak, 0)
    progress = (since - max(peak, 0)) / falling if falling > 0 else 0.0
    return _cosine(1, start / config.final_div_factor, progress)


def _cosine(first: float, last: float, progress: float) -> float:
    """Return the way from ``first`` to ``last`` at a progress from 0 to 1, along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1))) / 2
