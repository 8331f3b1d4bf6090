"""What a training is made of, by its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from mtl_core.data import DictDataLoader
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.autograd_steps import AutogradSteps
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.balancing import BALANCERS, Balancer
from mtl_core.training.batch_schedules import build_scheduler
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.compiled.recipe import NotCompiledError, Recipe, check_settings, recipe_for
from mtl_core.training.compiled.steps import CompiledSteps
from mtl_core.training.config import TrainerConfig
from mtl_core.training.device_batches import on_device
from mtl_core.training.diagnosis import Diagnosis
from mtl_core.training.early_stopping import ModelStopper, NoStopper, Stopper
from mtl_core.training.finiteness import FinitenessGuard
from mtl_core.training.freezing import FrozenModules
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter, TensorBoardWriter
from mtl_core.training.loop import Loop
from mtl_core.training.lr_schedules import LRSchedule
from mtl_core.training.optimizers import build_optimizer
from mtl_core.training.parameter_groups import parameter_groups
from mtl_core.training.precision import Precision
from mtl_core.training.progress import FitListener
from mtl_core.training.running_losses import RunningLosses, labelled_pairs
from mtl_core.training.stepping import Stepper
from mtl_core.training.task_stopping import TaskStopper
from mtl_core.training.training_state import TrainingState


def prepare(
    config: TrainerConfig,
    model: MultitaskClassifier,
    train_loaders: Sequence[DictDataLoader],
    valid_loaders: Sequence[DictDataLoader],
    listener: FitListener,
    frozen: FrozenModules,
    start: TrainingState | None,
) -> tuple[Loop, list[str]]:
    """Make all that a training is made of.

    Args:
        config: The settings.
        model: What is trained.
        train_loaders: What it is trained on.
        valid_loaders: What it is scored on meanwhile.
        listener: Hears of it.
        frozen: Freezes modules; holds those that the settings name.
        start: What optimizer and balancer start from; None for nothing.

    Returns:
        The training before its first step, and lines to log.

    Raises:
        TaskloomError: If the settings do not suit model and data, or ``start`` does not.
    """
    logging = config.log_manager_config
    batch_scheduler = build_scheduler(config)
    n_batches_per_epoch = batch_scheduler.n_steps([len(loader) for loader in train_loaders])
    n_steps = config.n_epochs * n_batches_per_epoch
    tasks_and_datasets = labelled_pairs(train_loaders, model.tasks)
    task_names = list(dict.fromkeys(task for task, _ in tasks_and_datasets))
    balancer = BALANCERS.build(config.balancing)
    balancer.begin(model, task_names)
    recipe, why_none = _recipe(config, model, train_loaders)
    groups = parameter_groups(config, model, balancer)
    optimizer = build_optimizer(config, recipe.in_order(groups) if recipe else groups)
    if start is not None:
        start.put_into(optimizer, balancer)
    checkpointer = log_writer = None
    if config.checkpointing:
        checkpointer = Checkpointer(
            logging.counter_unit, logging.evaluation_freq, **dict(config.checkpointer_config)
        )
    if config.logging:
        kind = TensorBoardWriter if config.log_writer == "tensorboard" else LogWriter
        log_writer = kind(**dict(config.log_writer_config))
    guard = FinitenessGuard(config.non_finite, config.max_skipped, listener.on_log)
    average = None if config.ema_decay is None else WeightAverage(model, config.ema_decay)
    stopper = _stopper(config, model, task_names, frozen, average)
    losses = RunningLosses(config.train_split, tasks_and_datasets)
    precision = Precision(config.precision, model.device)
    stepper = Stepper(model, optimizer, precision, guard, config.grad_clip, average, balancer)
    sources, where_data_is = on_device(train_loaders, model.device)
    steps = AutogradSteps(model, sources, stopper, precision, guard, losses, balancer, stepper)
    if recipe:
        steps = CompiledSteps(
            model, recipe, train_loaders, optimizer, guard, losses, config.grad_clip, average, steps
        )
    diagnosis = None
    if config.diagnosis:
        diagnosis = Diagnosis(config.diagnosis_config, model, train_loaders, n_steps)
    loop = Loop(
        config=config,
        identity=_identity(config, n_steps, task_names, train_loaders),
        model=model,
        listener=listener,
        task_names=task_names,
        n_steps=n_steps,
        n_batches_per_epoch=n_batches_per_epoch,
        batch_scheduler=batch_scheduler,
        steps=steps,
        optimizer=optimizer,
        balancer=balancer,
        lr_scheduler=LRSchedule(config, n_steps, n_batches_per_epoch),
        precision=precision,
        guard=guard,
        losses=losses,
        average=average,
        stopper=stopper,
        diagnosis=diagnosis,
        log_manager=LogManager(n_batches_per_epoch, log_writer, checkpointer, **dict(logging)),
        log_writer=log_writer,
        checkpointer=checkpointer,
        generators=_generators([*train_loaders, *valid_loaders]),
        stops_within_epochs=all(loader.draws_order_at_once for loader in train_loaders),
    )
    return loop, [*why_none, *where_data_is, *_advice(config, balancer, train_loaders)]


def _recipe(
    config: TrainerConfig, model: MultitaskClassifier, loaders: Sequence[DictDataLoader]
) -> tuple[Recipe | None, list[str]]:
    """Return what steps that are compiled compute, or None and lines to log that say why they cannot be."""
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


def _advice(config: TrainerConfig, balancer: Balancer, loaders: Sequence[DictDataLoader]) -> list[str]:
    """Return a line to log where tasks are to be compared that never meet in a step."""
    alone = len(loaders) > 1 and config.batch_scheduler != "joint"
    if not (alone and balancer.needs_task_gradients):
        return []
    return [
        "balancing compares the tasks of one step, and every step has a batch of one dataset alone:"
        " with batch_scheduler 'joint' it has one of each"
    ]


def _stopper(
    config: TrainerConfig,
    model: MultitaskClassifier,
    task_names: Sequence[str],
    frozen: FrozenModules,
    average: WeightAverage | None,
) -> Stopper:
    if not config.early_stopping:
        return NoStopper()
    if not config.early_stopping_config.per_task:
        return ModelStopper(config, model)
    return TaskStopper(config, model, task_names, frozen, average)


def _identity(
    config: TrainerConfig, n_steps: int, task_names: Sequence[str], loaders: Sequence[DictDataLoader]
) -> dict[str, Any]:
    """Return what tells a training from others."""
    # Where files go may differ from one attempt to the next, and so may what is shown.
    settings = config.model_dump(
        mode="json",
        exclude={
            "progress_bar": True,
            "log_writer_config": {"log_dir"},
            "checkpointer_config": {"checkpoint_dir"},
        },
    )
    return {
        "settings": settings,
        "batches": n_steps,
        "tasks": list(task_names),
        "datasets": [[loader.dataset.name, len(loader.dataset)] for loader in loaders],
    }


def _generators(loaders: Sequence[DictDataLoader]) -> list[torch.Generator]:
    """Return the random generators that loaders and their samplers have to themselves, each once."""
    holders: list[Any] = [*loaders, *(cast("object", loader.sampler) for loader in loaders)]
    found = (getattr(holder, "generator", None) for holder in holders)
    return list({id(generator): generator for generator in found if generator is not None}.values())
