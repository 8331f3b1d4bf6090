"""How far a training has come, and who hears of it."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """How far training has come.

    Attributes:
        epoch: Epochs finished.
        n_epochs: Epochs in all, unless training ends early.
        step: Batches trained on.
        n_steps: Batches in all, unless training ends early.
        points: Examples trained on.
    """

    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    points: int


class FitListener:
    """Hears what ``fit`` does; an exception that it raises ends the training and passes through."""

    def on_batch(self, progress: Progress) -> None:
        """Hear that a batch was trained on."""

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Hear losses, learning rate and validation scores by their flat keys; NaN where undefined.

        The model has the weights that were evaluated.
        """

    def wants_stop(self) -> bool:
        """Say, after a step, whether training is to stop there; a snapshot of it is saved where there are any."""
        return False

    def on_log(self, message: str) -> None:
        """Hear of something out of the ordinary: a batch that was skipped, a task that has peaked."""
