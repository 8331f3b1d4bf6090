"""A trainer's settings and the state of its optimizer and balancer as one safetensors file: tensors, and JSON in its
metadata.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import optim

from mtl_core.errors import TaskloomError
from mtl_core.files import read_tensors, written_whole
from mtl_core.training.balancing import Balancer
from mtl_core.training.config import TrainerConfig

_FORMAT = "taskloom-trainer-2"
# No parameter's name begins so.
_KEPT, _LEARNT = "=balancer:", "=learnt:"


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state in a form that files can hold.

    Attributes:
        kind: The optimizer's class.
        groups: Its groups of parameters: their names under ``param_names``, and hyperparameters that JSON can hold.
        numbers: By parameter, what of its state is no tensor.
        tensors: By ``{parameter}:{part of its state}``, on the CPU.
    """

    kind: str
    groups: list[dict[str, Any]]
    numbers: dict[str, dict[str, Any]]
    tensors: dict[str, torch.Tensor]


def optimizer_state(optimizer: optim.Optimizer) -> OptimizerState:
    """Return a copy of an optimizer's state; its parameters must have been given by name."""
    saved = optimizer.state_dict()
    groups = [
        {key: value for key, value in group.items() if key != "params"} for group in saved["param_groups"]
    ]
    names = _names(saved["param_groups"])
    numbers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for index, parts in saved["state"].items():
        for part, value in parts.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[index]}:{part}"] = value.detach().to("cpu", copy=True).contiguous()
            else:
                numbers.setdefault(names[index], {})[part] = value
    return OptimizerState(type(optimizer).__name__, groups, numbers, tensors)


def load_optimizer_state(optimizer: optim.Optimizer, state: OptimizerState) -> None:
    """Put a state back into an optimizer of the same kind over the same parameters.

    Raises:
        TaskloomError: If it is of another kind, or its parameters are others or of other shapes; names the
            difference, and leaves the optimizer as it was.
    """
    ours = optimizer.state_dict()["param_groups"]
    _check_same(type(optimizer).__name__, state.kind, "optimizer")
    _check_same(
        [group["param_names"] for group in ours], [g["param_names"] for g in state.groups], "parameters"
    )
    names = _names(ours)
    indices = {name: index for index, name in names.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts: dict[int, dict[str, Any]] = {indices[name]: dict(values) for name, values in state.numbers.items()}
    for key, tensor in state.tensors.items():
        name, _, part = key.rpartition(":")
        if name not in indices:
            raise TaskloomError(f"the optimizer has no parameter '{name}'")
        if tensor.ndim:
            _check_same(list(parameters[indices[name]].shape), list(tensor.shape), f"shape of '{key}'")
        parts.setdefault(indices[name], {})[part] = tensor
    groups = [
        # JSON has no tuples.
        {
            key: tuple(value) if isinstance(fresh.get(key), tuple) else value
            for key, value in {**saved, "params": fresh["params"]}.items()
        }
        for saved, fresh in zip(state.groups, ours, strict=True)
    ]
    optimizer.load_state_dict({"state": parts, "param_groups": groups})


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
    def of(cls, optimizer: optim.Optimizer, balancer: Balancer, task_names: list[str]) -> TrainingState:
        """Return a copy of the states of an optimizer and a balancer."""
        learnt = {name: _copy(parameter) for name, parameter in balancer.parameters().items()}
        kept = {name: _copy(tensor) for name, tensor in balancer.state_dict().items()}
        return cls(optimizer_state(optimizer), task_names, kept, learnt)

    def put_into(self, optimizer: optim.Optimizer, balancer: Balancer) -> None:
        """Put the state back into an optimizer and a balancer of the same kinds.

        Raises:
            TaskloomError: As :func:`load_optimizer_state`.
        """
        load_optimizer_state(optimizer, self.optimizer)
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
        parts = {"kind": optimizer.kind, "groups": optimizer.groups, "numbers": optimizer.numbers}
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
    optimizer = OptimizerState(parts["kind"], parts["groups"], parts["numbers"], tensors)
    return config, TrainingState(optimizer, json.loads(metadata["balanced_tasks"]), kept, learnt)


def _taken(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the tensors out whose names begin with a prefix, and return them by the rest of their names."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _names(groups: list[dict[str, Any]]) -> dict[int, str]:
    return {
        index: name
        for group in groups
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }


def _check_same(ours: object, saved: object, what: str) -> None:
    if ours != saved:
        raise TaskloomError(
            f"the saved optimizer does not fit the model: its {what} {saved} should be {ours}"
        )
