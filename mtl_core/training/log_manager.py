"""When to log, evaluate and save: counts of what training has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.config import LogManagerConfig
from mtl_core.training.log_writers import LogWriter

# Keeps thirds of an epoch from slipping a batch by rounding.
_ROUNDING = 1e-9

_COUNTS = (
    *("point_count", "batch_count", "epoch_count", "unit_count"),
    *("point_total", "batch_total", "epoch_total", "unit_total"),
    *("trigger_count", "_periods"),
)


class LogManager:
    """Counts points, batches and epochs, and says when an evaluation or a checkpoint is due.

    Evaluations are due whenever another ``evaluation_freq`` units have passed since the start of training, so that
    a frequency that is no whole number of batches does not slip.

    Args:
        n_batches_per_epoch: Batches of one epoch.
        log_writer: Writes the log; closed by :meth:`cleanup`.
        checkpointer: Saves the model; asked by :meth:`cleanup` for the best one.
        **kwargs: The fields of :class:`~mtl_core.training.config.LogManagerConfig`.

    Attributes:
        config: The settings.
        point_count: Examples since the last evaluation; ``batch_count``, ``epoch_count`` and ``unit_count`` are the
            same in batches, epochs and units of ``counter_unit``.
        point_total: Examples since the start; ``batch_total``, ``epoch_total`` and ``unit_total`` likewise.
        trigger_count: Evaluations since the last checkpoint.

    Raises:
        pydantic.ValidationError: If a setting is unknown or out of range.

    Example:
        >>> manager = LogManager(n_batches_per_epoch=2)
        >>> manager.update(batch_size=8), manager.trigger_evaluation()
        (None, False)
        >>> manager.update(batch_size=8), manager.trigger_evaluation()
        (None, True)
    """

    def __init__(
        self,
        n_batches_per_epoch: int,
        log_writer: LogWriter | None = None,
        checkpointer: Checkpointer | None = None,
        **kwargs: Any,
    ) -> None:
        self.config = LogManagerConfig(**kwargs)
        self.n_batches_per_epoch = n_batches_per_epoch
        self.log_writer = log_writer
        self.checkpointer = checkpointer
        self.counter_unit = self.config.counter_unit
        self.evaluation_freq = self.config.evaluation_freq
        self.point_total = 0
        self.batch_total = 0
        self.epoch_total = 0.0
        self.unit_total = 0.0
        self.trigger_count = 0
        self._periods = 0
        self.reset()

    def update(self, batch_size: int) -> None:
        """Count one more batch of so many examples."""
        self.point_count += batch_size
        self.point_total += batch_size
        self.batch_count += 1
        self.batch_total += 1
        self.epoch_count = self.batch_count / self.n_batches_per_epoch
        self.epoch_total = self.batch_total / self.n_batches_per_epoch
        match self.counter_unit:
            case "points":
                self.unit_count, self.unit_total = self.point_count, self.point_total
            case "batches":
                self.unit_count, self.unit_total = self.batch_count, self.batch_total
            case _:
                self.unit_count, self.unit_total = self.epoch_count, self.epoch_total

    def trigger_evaluation(self, last: bool = False) -> bool:
        """Say whether an evaluation is due, and if so begin to count anew.

        Args:
            last: Whether training ends here, where an evaluation is always due; default False.
        """
        periods = math.floor(self.unit_total / self.evaluation_freq + _ROUNDING)
        due = last or periods > self._periods
        if due:
            self._periods = periods
            self.trigger_count += 1
            self.reset()
        return due

    def trigger_checkpointing(self) -> bool:
        """Say whether a checkpoint is due, after ``checkpoint_factor`` evaluations, and if so count them anew."""
        due = self.checkpointer is not None and self.trigger_count >= self.checkpointer.checkpoint_factor
        if due:
            self.trigger_count = 0
        return due

    def reset(self) -> None:
        """Count from here on; the totals go on."""
        self.point_count = 0
        self.batch_count = 0
        self.epoch_count = 0.0
        self.unit_count = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {name: getattr(self, name) for name in _COUNTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        for name in _COUNTS:
            setattr(self, name, state[name])

    def cleanup(self, model: MultitaskClassifier) -> MultitaskClassifier:
        """Close the log, clear the checkpoints and return the model, at its best where one was saved."""
        self.close_log()
        if self.checkpointer is not None:
            self.checkpointer.clear()
            model = self.checkpointer.load_best_model(model)
        return model

    def close_log(self) -> None:
        """Close the log, if there is one."""
        if self.log_writer is not None:
            self.log_writer.cleanup()
