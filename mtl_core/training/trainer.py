"""The training loop."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from mtl_core.data import DictDataLoader
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.autograd_steps import AutogradSteps
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.balancing import BALANCERS, Balancer
from mtl_core.training.batch_schedules import Scheduler, build_scheduler
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.compiled.recipe import NotCompiledError, Recipe, check_settings, recipe_for
from mtl_core.training.compiled.steps import CompiledSteps
from mtl_core.training.config import TrainerConfig
from mtl_core.training.device_batches import on_device
from mtl_core.training.diagnosis import Diagnosis
from mtl_core.training.early_stopping import ModelStopper, NoStopper, Stopper
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard
from mtl_core.training.freezing import FrozenModules, freezing
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter, TensorBoardWriter
from mtl_core.training.lr_schedules import LRSchedule
from mtl_core.training.optimizers import Optimizer, build_optimizer
from mtl_core.training.parameter_groups import parameter_groups, set_learning_rate
from mtl_core.training.precision import Precision
from mtl_core.training.priors import set_class_priors
from mtl_core.training.progress import FitListener, Progress
from mtl_core.training.running_losses import RunningLosses, labelled_pairs
from mtl_core.training.splits import train_and_valid
from mtl_core.training.stepping import Stepper
from mtl_core.training.task_stopping import TaskStopper
from mtl_core.training.training_state import TrainingState, read_training_state, save_training_state
from mtl_core.training.validation import validate


@dataclass(frozen=True)
class _Loop:
    """What one ``fit`` works with."""

    model: MultitaskClassifier
    listener: FitListener
    n_steps: int
    losses: RunningLosses
    guard: FinitenessGuard
    average: WeightAverage | None
    steps: AutogradSteps | CompiledSteps
    stopper: Stopper
    diagnosis: Diagnosis | None


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
    ) -> None:
        """Train the model in place, and leave it in evaluation mode.

        Args:
            model: What to train.
            dataloaders: Loaders of any splits; those of ``train_split`` are trained on, those of
                ``valid_split`` scored at every evaluation.
            listener: Hears progress and metrics.

        Raises:
            TaskloomError: If no loader is of the train split, a split is none of the three, the model has no parameter
                to train, or a setting names a module that it lacks or a metric that is not logged.
            NonFiniteLossError: If a task's loss or its gradient is NaN or infinite, and is not to be skipped; no step
                is taken on that batch.
        """
        config, listener = self.config, listener or FitListener()
        train_loaders, valid_loaders = train_and_valid(config, dataloaders)
        with _seeded(config.seed), freezing(model, config.frozen_modules) as frozen:
            if config.class_prior_bias:
                _tell(listener, set_class_priors(model, train_loaders))
            frozen.train()
            loop = self._prepare(model, train_loaders, listener, frozen)
            _tell(listener, self._advice(train_loaders))
            with self._log_kept(), closing(loop.steps), self._progress_bar(loop.n_steps) as bar:
                for position, draws in self._positions(loop.steps.sources):
                    rate = self._set_rate(position.step)
                    if loop.diagnosis and loop.diagnosis.is_due(position.step):
                        self._log(found := loop.diagnosis.measure(config.train_split))
                        listener.on_metrics(self._progress(loop), found)
                    n_examples = loop.steps.take_in(draws, position)
                    if self._ends_a_step(position):
                        loop.steps.step(draws)

                    if position.batch + 1 == self.n_batches_per_epoch:
                        self.balancer.end_epoch()
                    self.log_manager.update(n_examples)
                    progress = self._progress(loop)
                    listener.on_batch(progress)
                    bar.update()
                    if self.log_manager.trigger_evaluation(last=progress.step == loop.n_steps):
                        metrics = self._evaluate(loop, valid_loaders, progress, rate)
                        bar.set_postfix({key: f"{value:.3f}" for key, value in metrics.items()})
                        _tell(listener, self._lower_rate(metrics, progress.step), loop.stopper.act())
                        if loop.stopper.ended:
                            break
                if loop.average:
                    loop.average.apply()
            self.log_manager.cleanup(model)
            _tell(listener, loop.stopper.finish())
            if loop.diagnosis:
                self.affinities = loop.diagnosis.affinities
                _tell(listener, loop.diagnosis.summary())
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

    def _prepare(
        self,
        model: MultitaskClassifier,
        train_loaders: Sequence[DictDataLoader],
        listener: FitListener,
        frozen: FrozenModules,
    ) -> _Loop:
        """Make all that a training is made of."""
        config, logging = self.config, self.config.log_manager_config
        self.batch_scheduler = build_scheduler(config)
        self.n_batches_per_epoch = self.batch_scheduler.n_steps([len(loader) for loader in train_loaders])
        n_steps = config.n_epochs * self.n_batches_per_epoch
        tasks_and_datasets = labelled_pairs(train_loaders, model.tasks)
        task_names = list(dict.fromkeys(task for task, _ in tasks_and_datasets))
        self.balancer = BALANCERS.build(config.balancing)
        self._balanced_tasks = task_names
        self.balancer.begin(model, task_names)
        recipe, why_none = self._recipe(model, train_loaders)
        _tell(listener, why_none)
        groups = parameter_groups(config, model, self.balancer)
        self.optimizer = build_optimizer(config, recipe.in_order(groups) if recipe else groups)
        if self._resumed is not None:
            self._resumed.put_into(self.optimizer, self.balancer)
            self._resumed = None
        self.lr_scheduler = LRSchedule(config, n_steps, self.n_batches_per_epoch)
        self.warmup_steps = self.lr_scheduler.warmup_steps
        self.metrics, self.affinities = {}, {}
        self.checkpointer = self.log_writer = None
        if config.checkpointing:
            self.checkpointer = Checkpointer(
                logging.counter_unit, logging.evaluation_freq, **dict(config.checkpointer_config)
            )
        if config.logging:
            kind = TensorBoardWriter if config.log_writer == "tensorboard" else LogWriter
            self.log_writer = kind(**dict(config.log_writer_config))
        self.log_manager = LogManager(
            self.n_batches_per_epoch, self.log_writer, self.checkpointer, **dict(logging)
        )
        guard = FinitenessGuard(config.non_finite, config.max_skipped, listener.on_log)
        average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
        stopper = self._stopper(model, task_names, frozen, average)
        losses = RunningLosses(config.train_split, tasks_and_datasets)
        precision = Precision(config.precision, model.device)
        stepper = Stepper(model, self.optimizer, precision, guard, config.grad_clip, average, self.balancer)
        sources, where_data_is = on_device(train_loaders, model.device)
        _tell(listener, where_data_is)
        steps = AutogradSteps(model, sources, stopper, precision, guard, losses, self.balancer, stepper)
        if recipe:
            steps = CompiledSteps(
                model, recipe, train_loaders, self.optimizer, guard, losses, config.grad_clip, average, steps
            )
        diagnosis = None
        if config.diagnosis:
            diagnosis = Diagnosis(config.diagnosis_config, model, train_loaders, n_steps)
        return _Loop(
            model=model,
            listener=listener,
            n_steps=n_steps,
            losses=losses,
            guard=guard,
            average=average,
            steps=steps,
            stopper=stopper,
            diagnosis=diagnosis,
        )

    def _recipe(
        self, model: MultitaskClassifier, loaders: Sequence[DictDataLoader]
    ) -> tuple[Recipe | None, list[str]]:
        """Return what steps that are compiled compute, or None and lines to log that say why they cannot be."""
        config = self.config
        slow = [
            f"batches of '{loader.dataset.name}' are collated example by example, which is slow: {why}"
            for loader in loaders
            if (why := loader.collates_because)
        ]
        if config.compile == "off":
            return None, slow
        try:
            check_settings(config, model, len(loaders))
            recipe = recipe_for(model, loaders, config.module_lrs)
            partly = f"autograd computes the gradients of all but heads, which is slower: {recipe.reason}"
            return recipe, [*slow, partly] if recipe.outside else slow
        except NotCompiledError as reason:
            return None, [*slow, f"autograd computes the gradients, which is slower: {reason}"]

    def _advice(self, loaders: Sequence[DictDataLoader]) -> list[str]:
        """Return a line to log where tasks are to be compared that never meet in a step."""
        alone = len(loaders) > 1 and self.config.batch_scheduler != "joint"
        if not (alone and self.balancer.needs_task_gradients):
            return []
        return [
            "balancing compares the tasks of one step, and every step has a batch of one dataset alone:"
            " with batch_scheduler 'joint' it has one of each"
        ]

    def _stopper(
        self,
        model: MultitaskClassifier,
        task_names: Sequence[str],
        frozen: FrozenModules,
        average: WeightAverage | None,
    ) -> Stopper:
        if not self.config.early_stopping:
            return NoStopper()
        if not self.config.early_stopping_config.per_task:
            return ModelStopper(self.config, model)
        return TaskStopper(self.config, model, task_names, frozen, average)

    def _positions(self, sources: Sequence[Any]) -> Iterator[tuple[BatchPosition, list[Any]]]:
        """Yield the batches of each step of all epochs."""
        n_epochs = self.config.n_epochs
        for epoch in range(n_epochs):
            self.batch_scheduler.progress = epoch / max(1, n_epochs - 1)
            for number, draws in enumerate(self.batch_scheduler.get_steps(sources)):
                step = epoch * self.n_batches_per_epoch + number
                datasets = tuple(source.dataset.name for _, source in draws)
                yield BatchPosition(datasets, epoch, number, step), draws

    def _set_rate(self, step: int) -> float:
        """Set the learning rate of a batch and return it."""
        rate = self.lr_scheduler.rate(step)
        assert self.optimizer is not None
        set_learning_rate(self.optimizer.param_groups, rate)
        return rate

    def _ends_a_step(self, position: BatchPosition) -> bool:
        done = position.batch + 1
        return done % self.config.accumulate_batches == 0 or done == self.n_batches_per_epoch

    def _progress(self, loop: _Loop) -> Progress:
        step, points = self.log_manager.batch_total, self.log_manager.point_total
        return Progress(step // self.n_batches_per_epoch, self.config.n_epochs, step, loop.n_steps, points)

    def _evaluate(
        self, loop: _Loop, valid_loaders: Sequence[DictDataLoader], progress: Progress, rate: float
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

    def _progress_bar(self, n_steps: int) -> tqdm[Any]:
        return tqdm(total=n_steps, disable=not self.config.progress_bar, desc=self.name, unit="batch")


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
