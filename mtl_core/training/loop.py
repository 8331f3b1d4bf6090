"""All that one training consists of, and its state as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from mtl_core.errors import TaskloomError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.weights import load_module_weights, module_weights
from mtl_core.training.autograd_steps import AutogradSteps
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.balancing import Balancer
from mtl_core.training.batch_schedules import EpochDraws, Scheduler
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.compiled.steps import CompiledSteps
from mtl_core.training.config import TrainerConfig
from mtl_core.training.diagnosis import Diagnosis
from mtl_core.training.early_stopping import Stopper
from mtl_core.training.finiteness import BatchPosition, FinitenessGuard
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter
from mtl_core.training.lr_schedules import LRSchedule
from mtl_core.training.optimizers import Optimizer
from mtl_core.training.precision import Precision
from mtl_core.training.progress import FitListener
from mtl_core.training.running_losses import RunningLosses


class Stateful(Protocol):
    """A part of a training that keeps something from step to step."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what is kept: tensors, and what JSON can hold, in dicts and lists."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from what :meth:`state_dict` returned, of a part that was made in the same way."""
        ...


@dataclass
class Loop:
    """What one ``fit`` works with.

    Attributes:
        config: The settings.
        identity: What another training must have in common with this one to go on from its state, by name.
        task_names: The tasks that have labels to train on.
        generators: The random generators that loaders have to themselves.
        stops_within_epochs: Whether the place within an epoch can be found again; else only that between two.
        metrics: The last value of all that was logged.
        epoch: The epoch that is gone through, from 0.
        draws: Its batches; None between two epochs.
        is_finished: Whether nothing is left to do.
    """

    config: TrainerConfig
    identity: Mapping[str, Any]
    model: MultitaskClassifier
    listener: FitListener
    task_names: list[str]
    n_steps: int
    n_batches_per_epoch: int
    batch_scheduler: Scheduler
    steps: AutogradSteps | CompiledSteps
    optimizer: Optimizer
    balancer: Balancer
    lr_scheduler: LRSchedule
    precision: Precision
    guard: FinitenessGuard
    losses: RunningLosses
    average: WeightAverage | None
    stopper: Stopper
    diagnosis: Diagnosis | None
    log_manager: LogManager
    log_writer: LogWriter | None
    checkpointer: Checkpointer | None
    generators: Sequence[torch.Generator]
    stops_within_epochs: bool
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    epoch: int = 0
    draws: EpochDraws[Any] | None = None
    is_finished: bool = False

    def positions(self) -> Iterator[tuple[BatchPosition, list[Any]]]:
        """Yield the batches of each step that is left."""
        n_epochs = self.config.n_epochs
        while self.epoch < n_epochs:
            self.batch_scheduler.progress = self.epoch / max(1, n_epochs - 1)
            draws = self.draws = self.draws or EpochDraws(self.batch_scheduler, self.steps.sources)
            for step in draws:
                number = draws.n_drawn - 1
                datasets = tuple(source.dataset.name for _, source in step)
                total = self.epoch * self.n_batches_per_epoch + number
                position = BatchPosition(datasets, self.epoch, number, total)
                if draws.n_drawn == self.n_batches_per_epoch:
                    self.epoch, self.draws = self.epoch + 1, None
                yield position, step

    @property
    def can_be_saved(self) -> bool:
        """Whether :meth:`state_dict` is of use here, between two steps."""
        return self.stops_within_epochs or self.draws is None

    @property
    def n_bytes(self) -> int:
        """What the state takes, roughly: weights, and twice as much that the optimizer keeps for them."""
        return 3 * sum(parameter.nbytes for parameter in self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on, and all that was logged."""
        return {
            "identity": self.identity,
            "is_finished": self.is_finished,
            "epoch": self.epoch,
            "draws": None if self.draws is None else self.draws.place(),
            "weights": module_weights(self.model),
            "learnt": {name: parameter.detach() for name, parameter in self.balancer.parameters().items()},
            "parts": {name: part.state_dict() for name, part in self._parts().items()},
            "metrics": self.metrics,
            "random": self._random_states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            TaskloomError: If that is the state of another training.
        """
        self._check(state["identity"])
        self.is_finished, self.epoch = state["is_finished"], state["epoch"]
        if state["draws"] is not None:
            self.draws = EpochDraws(self.batch_scheduler, self.steps.sources, state["draws"])
        load_module_weights(self.model, state["weights"])
        with torch.no_grad():
            for name, parameter in self.balancer.parameters().items():
                parameter.copy_(state["learnt"][name])
        for name, part in self._parts().items():
            part.load_state_dict(state["parts"][name])
        self.metrics.update(state["metrics"])
        self._set_random_states(state["random"])

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful | None] = {
            "optimizer": self.optimizer,
            "balancer": self.balancer,
            "lr_scheduler": self.lr_scheduler,
            "scaler": self.precision.scaler,
            "guard": self.guard,
            "losses": self.losses,
            "average": self.average,
            "stopper": self.stopper,
            "diagnosis": self.diagnosis,
            "log_manager": self.log_manager,
            "log_writer": self.log_writer,
            "checkpointer": self.checkpointer,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _check(self, identity: Mapping[str, Any]) -> None:
        for name, ours in self.identity.items():
            theirs = identity[name]
            if ours == theirs:
                continue
            if name == "settings":
                # Settings that came up later have the value that all trainings had before.
                differing = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
                if not differing:
                    continue
                ours, theirs = ({key: of[key] for key in differing} for of in (ours, theirs))  # noqa: PLW2901
            raise TaskloomError(
                f"the snapshot is of another training: its {name} should be {ours}, not {theirs}"
            )

    def _random_states(self) -> dict[str, Any]:
        device = self.model.device
        return {
            "cpu": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "generators": [generator.get_state() for generator in self.generators],
        }

    def _set_random_states(self, states: Mapping[str, Any]) -> None:
        torch.set_rng_state(states["cpu"])
        if states["device"] is not None and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(states["device"], self.model.device)
        for generator, state in zip(self.generators, states["generators"], strict=True):
            generator.set_state(state)
