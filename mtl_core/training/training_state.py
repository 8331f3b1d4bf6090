"""A trainer's settings and the state of its optimizer and balancer as one safetensors file: tensors, and JSON in its
metadata.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import safetensors.torch
import torch

from mtl_core.errors import TaskloomError
from mtl_core.files import read_tensors, written_whole
from mtl_core.training.balancing import Balancer
from mtl_core.training.config import TrainerConfig
from mtl_core.training.optimizers import Optimizer

_FORMAT = "taskloom-trainer-3"
# No parameter's name begins so.
_KEPT, _LEARNT = "=balancer:", "=learnt:"


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state in a form that files can hold.

    Attributes:
        kind: The optimizer's class.
        parameters: Its parameters' names, group by group.
        tensors: What it keeps, by ``{parameter}:{part}``, on the CPU.
    """

    kind: str
    parameters: list[list[str]]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, optimizer: Optimizer) -> OptimizerState:
        """Return a copy of an optimizer's state."""
        return cls(type(optimizer).__name__, _names(optimizer), optimizer.state_dict())

    def put_into(self, optimizer: Optimizer) -> None:
        """Put the state into an optimizer of the same kind, with the same parameters in any order.

        Raises:
            TaskloomError: If it does not fit; the optimizer stays as it was.
        """
        _check_same(type(optimizer).__name__, self.kind, "optimizer")
        ours, saved = ([sorted(group) for group in of] for of in (_names(optimizer), self.parameters))
        _check_same(ours, saved, "parameters")
        optimizer.load_state_dict(self.tensors)


@dataclass(frozen=True)
class TrainingState:
    """What a training goes on from.

    Attributes:
        optimizer: The optimizer's state.
        task_names: The tasks that were balanced.
        balancer: What the balancer keeps.
        learnt: The balancer's parameters.
    """

    optimizer: OptimizerState
    task_names: list[str]
    balancer: dict[str, torch.Tensor]
    learnt: dict[str, torch.Tensor]

    @classmethod
    def of(cls, optimizer: Optimizer, balancer: Balancer, task_names: list[str]) -> TrainingState:
        """Return a copy of the states of an optimizer and a balancer."""
        learnt = {name: _copy(parameter) for name, parameter in balancer.parameters().items()}
        kept = {name: _copy(tensor) for name, tensor in balancer.state_dict().items()}
        return cls(OptimizerState.of(optimizer), task_names, kept, learnt)

    def put_into(self, optimizer: Optimizer, balancer: Balancer) -> None:
        """Put the state back into an optimizer and a balancer of the same kinds.

        Raises:
            TaskloomError: If the optimizer's state does not fit; nothing has changed then.
        """
        self.optimizer.put_into(optimizer)
        balancer.load_state_dict(self.balancer)
        with torch.no_grad():
            for name, parameter in balancer.parameters().items():
                parameter.copy_(self.learnt[name])


def save_training_state(
    path: str | os.PathLike[str], config: TrainerConfig, state: TrainingState | None
) -> None:
    """Write settings, and the state of a training where there is one, to a file that is there whole or not at all."""
    metadata = {"format": _FORMAT, "settings": config.model_dump_json()}
    tensors: dict[str, torch.Tensor] = {}
    if state:
        optimizer = state.optimizer
        parts = {"kind": optimizer.kind, "parameters": optimizer.parameters}
        metadata["optimizer"] = json.dumps(parts, allow_nan=False)
        metadata["balanced_tasks"] = json.dumps(state.task_names)
        tensors |= optimizer.tensors
        tensors |= {_KEPT + name: tensor for name, tensor in state.balancer.items()}
        tensors |= {_LEARNT + name: tensor for name, tensor in state.learnt.items()}
    with written_whole(path) as scratch:
        safetensors.torch.save_file(tensors, scratch, metadata)


def read_training_state(path: str | os.PathLike[str]) -> tuple[TrainerConfig, TrainingState | None]:
    """Read what :func:`save_training_state` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        TaskloomError: If it is another file.
        pydantic.ValidationError: If its settings are not those of this version.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise TaskloomError(f"{os.fspath(path)} holds no trainer: it is not of the format {_FORMAT}")
    config = TrainerConfig.model_validate_json(metadata["settings"])
    if "optimizer" not in metadata:
        return config, None
    parts = json.loads(metadata["optimizer"])
    kept, learnt = (_taken(tensors, prefix) for prefix in (_KEPT, _LEARNT))
    optimizer = OptimizerState(parts["kind"], parts["parameters"], tensors)
    return config, TrainingState(optimizer, json.loads(metadata["balanced_tasks"]), kept, learnt)


def _taken(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the tensors out whose names begin with a prefix, and return them by the rest of their names."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _names(optimizer: Optimizer) -> list[list[str]]:
    return [group["param_names"] for group in optimizer.param_groups]


def _check_same(ours: object, saved: object, what: str) -> None:
    if ours != saved:
        raise TaskloomError(
            f"the saved optimizer does not fit the model: its {what} {saved} should be {ours}"
        )
