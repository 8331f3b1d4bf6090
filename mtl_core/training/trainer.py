"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mtl_core.classifier import MultitaskClassifier
from mtl_core.data import DictDataLoader
from mtl_core.errors import NonFiniteLossError, TaskloomError
from mtl_core.training.batch_schedules import BATCH_SCHEDULERS
from mtl_core.training.config import LogManagerConfig, TrainerConfig
from mtl_core.training.lr_schedules import learning_rate
from mtl_core.training.optimizers import build_optimizer
from mtl_core.training.running_losses import RunningLosses


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        epoch: Epochs finished.
        n_epochs: Epochs in all.
        step: Batches trained on.
        n_steps: Batches in all.
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
        """Hear losses, learning rate and validation scores by their flat keys; NaN where undefined."""


class Trainer:
    """Trains a :class:`~mtl_core.MultitaskClassifier` on batches of all its tasks.

    Args:
        name: A name for this trainer; default ``"Trainer"``.
        **kwargs: The fields of :class:`~mtl_core.TrainerConfig`.

    Raises:
        pydantic.ValidationError: If a setting is unknown or out of range.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.name = name or type(self).__name__
        self.config = TrainerConfig(**kwargs)

    def fit(
        self,
        model: MultitaskClassifier,
        dataloaders: Sequence[DictDataLoader],
        listener: FitListener | None = None,
    ) -> None:
        """Train the model in place.

        Args:
            model: What to train.
            dataloaders: Loaders of any splits; those of ``train_split`` are trained on, those of
                ``valid_split`` scored at every evaluation.
            listener: Hears progress and metrics.

        Raises:
            TaskloomError: If no loader is of the train split, a split is none of the three, or the model has
                no parameter to train.
            NonFiniteLossError: If a task's loss is NaN or infinite; no step is taken on that batch.
        """
        config = self.config
        train_loaders, valid_loaders = self._split(dataloaders)
        listener = listener or FitListener()
        steps_per_epoch = sum(len(loader) for loader in train_loaders)
        n_steps = config.n_epochs * steps_per_epoch
        schedule = BATCH_SCHEDULERS[config.batch_scheduler]()
        optimizer = build_optimizer(config, model.parameters())
        evaluation = _EvaluationClock(config.log_manager_config, steps_per_epoch)
        losses = RunningLosses(config.train_split)
        step = points = 0

        with _seeded(config.seed), self._progress_bar(n_steps) as bar:
            model.train()
            for epoch in range(config.n_epochs):
                for (X_dict, Y_dict), loader in schedule.get_batches(train_loaders):
                    lr = learning_rate(config, step, n_steps, steps_per_epoch)
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    task_losses, counts = model.calculate_loss(X_dict, Y_dict)
                    for task, loss in task_losses.items():
                        value = loss.item()
                        if not math.isfinite(value):
                            raise NonFiniteLossError(task, loader.dataset.name, epoch, step, value)
                        losses.add(task, loader.dataset.name, value, counts[task])
                    self._update(model, optimizer, task_losses)

                    step += 1
                    points += len(next(iter(X_dict.values())))
                    epochs_done = epoch + (step == (epoch + 1) * steps_per_epoch)
                    progress = Progress(epochs_done, config.n_epochs, step, n_steps, points)
                    listener.on_batch(progress)
                    bar.update()
                    if evaluation.is_due(step, points) or step == n_steps:
                        metrics = losses.metrics() | {f"model/all/{config.train_split}/lr": lr}
                        losses.reset()
                        metrics |= model.score(valid_loaders)
                        bar.set_postfix({key: f"{value:.3f}" for key, value in metrics.items()})
                        listener.on_metrics(progress, metrics)
            model.eval()

    def _update(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, task_losses: dict[str, torch.Tensor]
    ) -> None:
        """Take one step along the gradient of the summed losses.

        Without a labelled example, or a trainable parameter on the tasks' paths, there is no gradient.
        """
        trainable = [loss for loss in task_losses.values() if loss.requires_grad]
        if not trainable:
            return
        optimizer.zero_grad()
        torch.stack(trainable).sum().backward()
        if self.config.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), self.config.grad_clip)
        optimizer.step()

    def _split(self, loaders: Sequence[DictDataLoader]) -> tuple[list[DictDataLoader], list[DictDataLoader]]:
        config = self.config
        known = [config.train_split, config.valid_split, config.test_split]
        for loader in loaders:
            if loader.dataset.split not in known:
                name, split = loader.dataset.name, loader.dataset.split
                raise TaskloomError(f"dataset '{name}' has split '{split}', which is none of {known}")
        train = [loader for loader in loaders if loader.dataset.split == config.train_split]
        if not any(len(loader) for loader in train):
            raise TaskloomError(f"there is no batch of the train split '{config.train_split}'")
        return train, [loader for loader in loaders if loader.dataset.split == config.valid_split]

    def _progress_bar(self, n_steps: int) -> tqdm[Any]:
        return tqdm(total=n_steps, disable=not self.config.progress_bar, desc=self.name, unit="batch")


class _EvaluationClock:
    """Says when an evaluation is due: whenever another ``evaluation_freq`` units have passed."""

    def __init__(self, config: LogManagerConfig, steps_per_epoch: int) -> None:
        self._unit = config.counter_unit
        self._freq = config.evaluation_freq
        self._steps_per_epoch = steps_per_epoch
        self._fired = 0

    def is_due(self, step: int, points: int) -> bool:
        units = {"batches": step, "points": points, "epochs": step / self._steps_per_epoch}[self._unit]
        # The margin keeps thirds of an epoch from slipping a batch by rounding.
        periods = math.floor(units / self._freq + 1e-9)
        due = periods > self._fired
        self._fired = periods
        return due


@contextmanager
def _seeded(seed: int | None) -> Generator[None]:
    """Seed torch for the block and give the caller's random state back; do nothing without a seed."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
