"""A trainer's settings and its optimizer's state as one safetensors file: tensors, and JSON in its metadata."""

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
from mtl_core.training.config import TrainerConfig

_FORMAT = "taskloom-trainer-1"


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


def save_training_state(
    path: str | os.PathLike[str], config: TrainerConfig, optimizer: optim.Optimizer | None
) -> None:
    """Write settings, and the optimizer's state where there is one, to a file that is there whole or not at all."""
    state = optimizer_state(optimizer) if optimizer else None
    metadata = {"format": _FORMAT, "settings": config.model_dump_json()}
    if state:
        parts = {"kind": state.kind, "groups": state.groups, "numbers": state.numbers}
        metadata["optimizer"] = json.dumps(parts, allow_nan=False)
    with written_whole(path) as scratch:
        safetensors.torch.save_file(state.tensors if state else {}, scratch, metadata)


def read_training_state(path: str | os.PathLike[str]) -> tuple[TrainerConfig, OptimizerState | None]:
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
    return config, OptimizerState(parts["kind"], parts["groups"], parts["numbers"], tensors)


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
