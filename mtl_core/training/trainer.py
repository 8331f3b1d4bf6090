"""The training loop."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from mtl_core.data import DictDataLoader
from mtl_core.errors import TrainingStoppedError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.balancing import BALANCERS, Balancer
from mtl_core.training.batch_schedules import Scheduler
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.config import TrainerConfig
from mtl_core.training.finiteness import BatchPosition
from mtl_core.training.freezing import freezing
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter
from mtl_core.training.loop import Loop
from mtl_core.training.lr_schedules import LRSchedule
from mtl_core.training.optimizers import Optimizer, build_optimizer
from mtl_core.training.parameter_groups import parameter_groups, set_learning_rate
from mtl_core.training.preparation import prepare
from mtl_core.training.priors import set_class_priors
from mtl_core.training.progress import FitListener, Progress
from mtl_core.training.snapshots import Snapshots
from mtl_core.training.splits import train_and_valid
from mtl_core.training.training_state import TrainingState, read_training_state, save_training_state
from mtl_core.training.validation import validate


class Trainer:
    """Trains a :class:`~mtl_core.MultitaskClassifier` on batches of all its tasks.

    Args:
        name: A name for this trainer; default ``"Trainer"``.
        **kwargs: The fields of :class:`~mtl_core.TrainerConfig`.

    Attributes:
        config: The settings.
        optimizer: Makes steps of gradients; None before there is one. This and what follows is what the last ``fit``
            made, or left.
        balancer: Makes one gradient of the tasks' losses.
        lr_scheduler: The learning rate of each batch.
        batch_scheduler: The order of batches.
        log_manager: Counts what was trained on.
        log_writer: Writes the log; None without ``logging``.
        checkpointer: Saves checkpoints; None without ``checkpointing``.
        metrics: The last value of all that was logged, by key.
        affinities: The mean cosine of each two tasks' gradients on the modules that they share, by their names in
            alphabetical order; empty without ``diagnosis``.
        n_batches_per_epoch: Batches of an epoch; those that ``joint`` draws together count as one.
        warmup_steps: Batches of the warm-up.

    Raises:
        pydantic.ValidationError: If a setting is unknown or out of range.
    """

    balancer: Balancer
    lr_scheduler: LRSchedule
    batch_scheduler: Scheduler
    log_manager: LogManager
    n_batches_per_epoch: int
    warmup_steps: int

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.name = name or type(self).__name__
        self.config = TrainerConfig(**kwargs)
        self.optimizer: Optimizer | None = None
        self.log_writer: LogWriter | None = None
        self.checkpointer: Checkpointer | None = None
        self.metrics: dict[str, float] = {}
        self.affinities: dict[tuple[str, str], float] = {}
        self._balanced_tasks: list[str] = []
        self._resumed: TrainingState | None = None

    def fit(
        self,
        model: MultitaskClassifier,
        dataloaders: Sequence[DictDataLoader],
        listener: FitListener | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Train the model in place, and leave it in evaluation mode.

        Where there is a snapshot of this training, it goes on from there and ends as it would have without a break, bit
        for bit, on the same kind of machine. A sampler of another kind than torch's own must draw alike in every epoch.

        Args:
            model: What to train.
            dataloaders: Loaders of any splits; those of ``train_split`` are trained on, those of
                ``valid_split`` scored at every evaluation.
            listener: Hears progress and metrics.
            snapshots: Where and when the training is saved as it stands; default: never.

        Raises:
            TaskloomError: If no loader is of the train split, a split is none of the three, the model has no parameter
                to train, a setting names a module that it lacks or a metric that is not logged, or the snapshots are
                those of another training.
            NonFiniteLossError: If a task's loss or its gradient is NaN or infinite, and is not to be skipped; no step
                is taken on that batch.
            TrainingStoppedError: If the listener wanted that.
        """
        config, listener = self.config, listener or FitListener()
        train_loaders, valid_loaders = train_and_valid(config, dataloaders)
        with _seeded(config.seed), freezing(model, config.frozen_modules) as frozen:
            saved = snapshots.newest() if snapshots else None
            if config.class_prior_bias and saved is None:
                _tell(listener, set_class_priors(model, train_loaders))
            frozen.train()
            loop, lines = prepare(
                config, model, train_loaders, valid_loaders, listener, frozen, self._resumed
            )
            self._take_over(loop)
            if snapshots:
                snapshots.begin(loop.n_bytes)
            with self._log_kept(), closing(loop.steps):
                if saved is None:
                    _tell(listener, lines)
                else:
                    loop.load_state_dict(saved)
                if not loop.is_finished:
                    self._take_steps(loop, valid_loaders, snapshots)
            if loop.is_finished:
                self.log_manager.close_log()
            else:
                self._finish(loop, snapshots)
            if loop.diagnosis:
                self.affinities = loop.diagnosis.affinities
            model.eval()

    def save(self, trainer_path: str | os.PathLike[str]) -> None:
        """Write settings and optimizer state to a safetensors file, whole or not at all; missing folders are made.

        Args:
            trainer_path: The file; one that is there is replaced.
        """
        state = None
        if self.optimizer is not None:
            state = TrainingState.of(self.optimizer, self.balancer, self._balanced_tasks)
        save_training_state(trainer_path, self.config, state)

    def load(self, trainer_path: str | os.PathLike[str], model: MultitaskClassifier | None = None) -> None:
        """Read what :meth:`save` wrote; the next :meth:`fit` goes on from the optimizer's state.

        Args:
            trainer_path: The file.
            model: The model that was trained, with its weights of then; default: none, and no optimizer state is read.

        Raises:
            FileNotFoundError: If there is none.
            TaskloomError: If it is no trainer's file, or the optimizer's state does not fit the model; the trainer
                stays as it was.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> with TemporaryDirectory() as folder:
            ...     Trainer(lr=0.5).save(f"{folder}/trainer.safetensors")
            ...     trainer = Trainer()
            ...     trainer.load(f"{folder}/trainer.safetensors")
            >>> trainer.config.lr
            0.5
        """
        config, state = read_training_state(trainer_path)
        if model is None or state is None:
            self.config, self.optimizer = config, None
            return
        balancer = BALANCERS.build(config.balancing)
        with freezing(model, config.frozen_modules):
            balancer.begin(model, state.task_names)
            optimizer = build_optimizer(config, parameter_groups(config, model, balancer))
        state.put_into(optimizer, balancer)
        self.config, self.optimizer, self.balancer = config, optimizer, balancer
        self._balanced_tasks, self._resumed = state.task_names, state

    def _take_over(self, loop: Loop) -> None:
        self.optimizer, self.balancer = loop.optimizer, loop.balancer
        self.lr_scheduler, self.batch_scheduler = loop.lr_scheduler, loop.batch_scheduler
        self.log_manager, self.log_writer = loop.log_manager, loop.log_writer
        self.checkpointer = loop.checkpointer
        self.n_batches_per_epoch, self.warmup_steps = loop.n_batches_per_epoch, loop.lr_scheduler.warmup_steps
        self.metrics, self.affinities = loop.metrics, {}
        self._balanced_tasks, self._resumed = loop.task_names, None

    def _take_steps(
        self, loop: Loop, valid_loaders: Sequence[DictDataLoader], snapshots: Snapshots | None
    ) -> None:
        """Go through the batches that are left."""
        with self._progress_bar(loop) as bar:
            for position, draws in loop.positions():
                rate = self._set_rate(position.step)
                if loop.diagnosis and loop.diagnosis.is_due(position.step):
                    self._log(found := loop.diagnosis.measure(self.config.train_split))
                    loop.listener.on_metrics(self._progress(loop), found)
                n_examples = loop.steps.take_in(draws, position)
                ends_a_step = self._ends_a_step(position)
                if ends_a_step:
                    loop.steps.step(draws)

                if position.batch + 1 == self.n_batches_per_epoch:
                    self.balancer.end_epoch()
                self.log_manager.update(n_examples)
                progress = self._progress(loop)
                loop.listener.on_batch(progress)
                bar.update()
                if self.log_manager.trigger_evaluation(last=progress.step == loop.n_steps):
                    metrics = self._evaluate(loop, valid_loaders, progress, rate)
                    bar.set_postfix({key: f"{value:.3f}" for key, value in metrics.items()})
                    _tell(loop.listener, self._lower_rate(metrics, progress.step), loop.stopper.act())
                    if loop.stopper.ended:
                        break
                if ends_a_step and progress.step < loop.n_steps:
                    self._pause(loop, snapshots, progress)
            if loop.average:
                loop.average.apply()

    def _pause(self, loop: Loop, snapshots: Snapshots | None, progress: Progress) -> None:
        """Save a snapshot if one is due, and stop if the listener wants that."""
        stops = loop.listener.wants_stop()
        if snapshots and loop.can_be_saved and (stops or snapshots.is_due()):
            _save(loop, snapshots)
        if stops:
            raise TrainingStoppedError(
                f"training was stopped after batch {progress.step:,} of {loop.n_steps:,}"
            )

    def _finish(self, loop: Loop, snapshots: Snapshots | None) -> None:
        """Leave the model with the weights that training is to end with."""
        self.log_manager.cleanup(loop.model)
        _tell(loop.listener, loop.stopper.finish())
        if loop.diagnosis:
            _tell(loop.listener, loop.diagnosis.summary())
        loop.is_finished = True
        if snapshots and snapshots.is_due(last=True):
            _save(loop, snapshots)

    def _set_rate(self, step: int) -> float:
        """Set the learning rate of a batch and return it."""
        rate = self.lr_scheduler.rate(step)
        assert self.optimizer is not None
        set_learning_rate(self.optimizer.param_groups, rate)
        return rate

    def _ends_a_step(self, position: BatchPosition) -> bool:
        done = position.batch + 1
        return done % self.config.accumulate_batches == 0 or done == self.n_batches_per_epoch

    def _progress(self, loop: Loop) -> Progress:
        step, points = self.log_manager.batch_total, self.log_manager.point_total
        return Progress(step // self.n_batches_per_epoch, self.config.n_epochs, step, loop.n_steps, points)

    def _evaluate(
        self, loop: Loop, valid_loaders: Sequence[DictDataLoader], progress: Progress, rate: float
    ) -> dict[str, float]:
        """Score the validation split, write that to the log and tell whoever listens; return all metrics."""
        split = self.config.train_split
        metrics = loop.losses.metrics() | loop.guard.metrics(split) | {f"model/all/{split}/lr": rate}
        metrics |= {f"{task}/all/{split}/weight": weight for task, weight in self.balancer.weights().items()}
        loop.losses.reset()
        with loop.average.in_place() if loop.average else nullcontext():
            metrics |= validate(loop.model, valid_loaders, self.config.valid_split)
            self._log(metrics)
            self._checkpoint(loop.model, metrics)
            loop.listener.on_metrics(progress, metrics)
            loop.stopper.hear(metrics)
        return metrics

    def _log(self, metrics: dict[str, float]) -> None:
        """Write metrics to the log."""
        self.metrics |= metrics
        if self.log_writer is not None:
            for key, value in metrics.items():
                self.log_writer.add_scalar(key, value, self.log_manager.point_total)

    def _checkpoint(self, model: MultitaskClassifier, metrics: dict[str, float]) -> None:
        """Save a checkpoint if one is due."""
        if self.checkpointer is not None and self.log_manager.trigger_checkpointing():
            self.checkpointer.checkpoint(self.log_manager.unit_total, model, metrics)

    def _lower_rate(self, metrics: dict[str, float], step: int) -> list[str]:
        """Tell the learning-rate schedule of an evaluation; return a line to log where it takes that as a plateau."""
        if not self.lr_scheduler.hear(metrics):
            return []
        return [f"no improvement: the learning rate falls to {self.lr_scheduler.rate(step):g}"]

    @contextmanager
    def _log_kept(self) -> Generator[None]:
        """Close the log when the block fails: what led to that stands in it."""
        try:
            yield
        except BaseException:
            if self.log_writer is not None:
                self.log_writer.cleanup()
            raise

    def _progress_bar(self, loop: Loop) -> tqdm[Any]:
        return tqdm(
            total=loop.n_steps,
            initial=self.log_manager.batch_total,
            disable=not self.config.progress_bar,
            desc=self.name,
            unit="batch",
        )


def _save(loop: Loop, snapshots: Snapshots) -> None:
    try:
        snapshots.save(loop.state_dict)
    except OSError as error:
        # Training itself needs none: the one before stays, and the next may find room.
        loop.listener.on_log(f"no snapshot was saved: {error.strerror or error}")


def _tell(listener: FitListener, *lines: Sequence[str]) -> None:
    for line in chain(*lines):
        listener.on_log(line)


@contextmanager
def _seeded(seed: int | None) -> Generator[None]:
    """Seed torch for the block and give the caller's random state back; do nothing without a seed."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
