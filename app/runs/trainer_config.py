"""The settings of a run's training: the library's, less what is the service's own business, and the size of batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.json_schema import SkipJsonSchema

from app.problems import Invalid
from mtl_core.errors import Fault, SpecError, TaskloomError, pointer_to
from mtl_core.training.balancing import BALANCERS
from mtl_core.training.config import CheckpointerConfig, LogWriterConfig, TrainerConfig
from mtl_core.training.watched_metrics import WatchedMetric

# What is wrong comes back in the answer, and a long list of it helps nobody.
_MAX_FAULTS = 20
_SHOWN_NAMES = 20

LOGS = "logs"
"""Folder of the files that a log writer writes, in that of the run."""


def _not_the_clients(folder: str) -> str:
    raise ValueError("the service decides where a run's files are: leave it out")


# What a client names must never become a path; what the service puts here is filled in for the trainer alone.
_Folder = Annotated[SkipJsonSchema[str], AfterValidator(_not_the_clients), Field(exclude=True)]


class RunCheckpointerConfig(CheckpointerConfig):
    """When the model is saved, and which of its states comes back at the end."""

    checkpoint_dir: _Folder = "checkpoints"
    checkpoint_clear: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    """A run keeps the weights that it ends with."""


class RunLogWriterConfig(LogWriterConfig):
    """How the files of a log are called."""

    log_dir: _Folder = LOGS
    run_name: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", examples=["first"])
    ] = None
    """Name of the folder within the log's ZIP file. Default: date and time of the start."""


class RunTrainerConfig(TrainerConfig):
    """Settings of a training."""

    # Settings never change, so a narrower type may stand for the wider one.
    progress_bar: Annotated[bool, Field(strict=True)] = False
    """Whether the worker draws a progress bar on its standard error."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Examples in a batch."""
    checkpointer_config: RunCheckpointerConfig = RunCheckpointerConfig()  # pyright: ignore[reportIncompatibleVariableOverride]
    """When to save, and by which metric."""
    log_writer_config: RunLogWriterConfig = RunLogWriterConfig()  # pyright: ignore[reportIncompatibleVariableOverride]
    """How the files of the log are called."""


def trainer_settings(config: RunTrainerConfig, frozen: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the arguments of the library's ``Trainer``.

    Args:
        config: What the client asked for.
        frozen: Further modules that stay as they are.
        folder: Where checkpoints and logs go.
    """
    # Priors are set beforehand, for new heads alone.
    settings = config.model_dump(exclude={"batch_size", "class_prior_bias"})
    settings["frozen_modules"] = list(dict.fromkeys([*config.frozen_modules, *frozen]))
    settings["checkpointer_config"]["checkpoint_dir"] = str(folder / "checkpoints")
    settings["log_writer_config"]["log_dir"] = str(folder / LOGS)
    return settings


def check_settings(
    config: RunTrainerConfig, modules: Collection[str], frozen: Collection[str], keys: Collection[str]
) -> None:
    """Refuse settings that name a module, a metric or a task which the training does not have.

    Args:
        config: The settings.
        modules: Names of the model's modules.
        frozen: Those that only a training of new modules would leave as they are.
        keys: What the training will log.

    Raises:
        Invalid: At each setting that names what is not there, or needs what is not installed; or where nothing is
            left to train.
    """
    unknown = ((pointer, name) for pointer, name in _named_modules(config) if name not in modules)
    faults = [
        Fault(pointer, f"the model has no module '{name}'; it has {some_of(modules)}")
        for pointer, name in islice(unknown, _MAX_FAULTS)
    ]
    faults += [
        Fault(pointer, detail)
        for pointer, metric in _watched_metrics(config)
        if (detail := _unknown(metric, keys))
    ]
    faults += islice(_balancing_faults(config, keys), _MAX_FAULTS)
    if not faults and config.early_stopping and config.early_stopping_config.per_task:
        faults += _unwatched_tasks(config, keys)
    if not faults and not set(modules) - set(config.frozen_modules) - set(frozen):
        at = "/train" if frozen else "/trainer/frozen_modules"
        faults.append(Fault(at, "there is nothing to train: every module is to stay as it is"))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)


def some_of(names: Collection[str]) -> str:
    """Return some names, sorted, and how many more there are."""
    shown = sorted(names)[:_SHOWN_NAMES]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{shown}{more}"


def _named_modules(config: RunTrainerConfig) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(config.frozen_modules):
        yield pointer_to("trainer", "frozen_modules", i), name
    for name in config.module_lrs:
        yield pointer_to("trainer", "module_lrs", name), name


def _balancing_faults(config: RunTrainerConfig, keys: Collection[str]) -> Iterator[Fault]:
    at = "/trainer/balancing"
    try:
        balancer = BALANCERS.build(config.balancing, at)
    except SpecError as error:
        yield from error.faults
        return
    trained = _trained(config, keys)
    for argument, name in balancer.strangers(trained):
        detail = f"no task '{name}' is trained; there are {some_of(trained)}"
        yield Fault(pointer_to("trainer", "balancing", argument, name), detail)


def _watched_metrics(config: RunTrainerConfig) -> Iterator[tuple[str, str | Sequence[str]]]:
    valid_loss = f"model/all/{config.valid_split}/loss:min"
    if config.early_stopping:
        yield "/trainer/early_stopping_config/metric", config.early_stopping_config.metric or valid_loss
    if config.lr_scheduler == "plateau":
        plateau = config.lr_scheduler_config.plateau_config
        yield "/trainer/lr_scheduler_config/plateau_config/metric", plateau.metric or valid_loss
    if config.checkpointing:
        at = "/trainer/checkpointer_config"
        yield f"{at}/checkpoint_metric", config.checkpointer_config.checkpoint_metric
        for i, metric in enumerate(config.checkpointer_config.checkpoint_task_metrics or []):
            yield f"{at}/checkpoint_task_metrics/{i}", metric


def _unwatched_tasks(config: RunTrainerConfig, keys: Collection[str]) -> Iterator[Fault]:
    metric = config.early_stopping_config.metric
    if metric is None:
        return
    for task in sorted(_trained(config, keys)):
        if WatchedMetric.parse(metric).for_task(task) is None:
            detail = f"with per_task it must name a metric of every task, but names none of '{task}'"
            yield Fault("/trainer/early_stopping_config/metric", detail)
            return


def _trained(config: RunTrainerConfig, keys: Collection[str]) -> set[str]:
    """Return the tasks that have a loss to train on."""
    return {key.split("/")[0] for key in keys if key.endswith(f"/{config.train_split}/loss")} - {"model"}


def _unknown(metric: str | Sequence[str], keys: Collection[str]) -> str | None:
    try:
        WatchedMetric.parse(metric).matches(keys)
    except TaskloomError as error:
        return str(error)
    return None
