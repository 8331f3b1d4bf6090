"""Single-task twins: one task's path out of a shared model, with the weights that the shared model began with."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence

import torch

from mtl_core.data import DictDataLoader, is_labelled
from mtl_core.errors import TaskloomError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.weights import load_module_weights
from mtl_core.slicing.names import whole_slice
from mtl_core.training.batch_schedules import build_scheduler
from mtl_core.training.config import TrainerConfig
from mtl_core.training.running_losses import labelled_pairs
from mtl_core.training.validation import validate
from mtl_core.training.watched_metrics import WatchedMetric


def families(task_names: Collection[str]) -> dict[str, list[str]]:
    """Return for each task the tasks that go with it: those of its slices, and itself last.

    Args:
        task_names: A model's tasks.

    Returns:
        Without the slices' tasks among the keys; in the order of ``task_names``.

    Example:
        >>> families(["t_slice:night_ind", "t_slice:night_pred", "t", "u"])
        {'t': ['t_slice:night_ind', 't_slice:night_pred', 't'], 'u': ['u']}
    """
    owners = {
        name: other
        for name in task_names
        for other in task_names
        if name.startswith(whole_slice(other, "")) and name.endswith(("_ind", "_pred"))
    }
    return {
        task: [*(name for name, owner in owners.items() if owner == task), task]
        for task in task_names
        if task not in owners
    }


def build_twin(
    model: MultitaskClassifier, family: Sequence[str], weights: Mapping[str, torch.Tensor]
) -> MultitaskClassifier:
    """Return a model of some of a model's tasks alone, with copies of all that they use.

    Args:
        model: The shared model; it stays as it is.
        family: The tasks, the one that the twin is for last.
        weights: The weights that the twin begins with, as :func:`~mtl_core.module_weights` answers them.
    """
    # In one go, so that modules which these tasks share stay shared.
    tasks = copy.deepcopy([model.tasks[name] for name in family])
    twin = MultitaskClassifier(
        tasks, name=f"twin of {family[-1]}", device=model.device, dataparallel=model.config.dataparallel
    )
    twin.remap_labels = {
        label: task for label, task in model.remap_labels.items() if task is None or task in twin.tasks
    }
    load_module_weights(twin, weights)
    twin.zero_grad()
    return twin


def loaders_of(family: Sequence[str], loaders: Sequence[DictDataLoader]) -> list[DictDataLoader]:
    """Return the loaders that have a label for one of the tasks."""
    return [loader for loader in loaders if labelled_pairs([loader], family)]


def judging_loaders(
    task: str, loaders: Sequence[DictDataLoader], config: TrainerConfig
) -> list[DictDataLoader]:
    """Return the loaders to judge a task on: of the test split, or of the validation split where that has no labels."""
    labelled = [
        loader
        for loader in loaders
        if task in loader.dataset.Y_dict and bool(is_labelled(loader.dataset.Y_dict[task]).any())
    ]
    test = [loader for loader in labelled if loader.dataset.split == config.test_split]
    return test or [loader for loader in labelled if loader.dataset.split == config.valid_split]


def count_steps(config: TrainerConfig, loaders: Sequence[DictDataLoader]) -> int:
    """Return how many batches, or steps of several, a training has unless it ends early."""
    lengths = [len(loader) for loader in loaders if loader.dataset.split == config.train_split]
    return config.n_epochs * build_scheduler(config).n_steps(lengths)


def twin_config(
    config: TrainerConfig, twin: MultitaskClassifier, loaders: Sequence[DictDataLoader], folder: str
) -> TrainerConfig:
    """Return a shared model's settings as they are for a twin.

    Budget, optimizer and schedules stay. With one task there is nothing to balance or to compare; settings of modules
    that the twin lacks, and watched metrics that it does not log, go. Where none is left that early stopping, the
    checkpointer or the plateau schedule could watch, it is their default, or else the loss on the training split, and
    without a validation split there is no early stopping. A twin writes no log.

    Args:
        config: The shared model's settings.
        twin: The twin.
        loaders: Those that it is trained and watched on.
        folder: Where its checkpoints go.
    """
    stopping, checkpoints, schedule = (
        config.early_stopping_config,
        config.checkpointer_config,
        config.lr_scheduler_config,
    )
    keys = _logged_keys(config, twin, loaders)
    valid_loss = f"model/all/{config.valid_split}/loss"
    fallback = [] if valid_loss in keys else [f"model/all/{config.train_split}/loss:min"]
    plateau = schedule.plateau_config
    watched = _kept(stopping.metric, keys)
    best = _kept(checkpoints.checkpoint_metric, keys) or [f"model/all/{config.train_split}/loss:min"]
    return config.model_copy(
        update={
            "balancing": "sum",
            "diagnosis": False,
            "logging": False,
            "frozen_modules": [name for name in config.frozen_modules if name in twin.module_pool],
            "module_lrs": {name: lr for name, lr in config.module_lrs.items() if name in twin.module_pool},
            "early_stopping": config.early_stopping and bool(watched or not fallback),
            "early_stopping_config": stopping.model_copy(
                update={"per_task": False, "metric": watched or None}
            ),
            "lr_scheduler_config": schedule.model_copy(
                update={
                    "plateau_config": plateau.model_copy(
                        update={"metric": _kept(plateau.metric, keys) or fallback or None}
                    )
                }
            ),
            "checkpointer_config": checkpoints.model_copy(
                update={
                    "checkpoint_dir": folder,
                    "checkpoint_metric": best,
                    "checkpoint_task_metrics": None,
                    "checkpoint_clear": True,
                }
            ),
        }
    )


def _logged_keys(
    config: TrainerConfig, twin: MultitaskClassifier, loaders: Sequence[DictDataLoader]
) -> set[str]:
    split = config.train_split
    train = [loader for loader in loaders if loader.dataset.split == split]
    valid = [loader for loader in loaders if loader.dataset.split == config.valid_split]
    keys = {f"model/all/{split}/loss", f"model/all/{split}/lr"}
    keys |= {f"{task}/{dataset}/{split}/loss" for task, dataset in labelled_pairs(train, twin.tasks)}
    return keys | validate(twin, valid, config.valid_split).keys()


def _kept(metric: str | list[str] | None, keys: Collection[str]) -> list[str]:
    """Return the watched keys that the twin logs."""
    entries = [metric] if isinstance(metric, str) else metric or []
    return [entry for entry in entries if _is_logged(entry, keys)]


def _is_logged(entry: str, keys: Collection[str]) -> bool:
    try:
        WatchedMetric.parse(entry).matches(keys)
    except TaskloomError:
        return False
    return True
