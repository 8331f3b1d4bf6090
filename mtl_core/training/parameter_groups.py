"""What of a model is trained, and at which rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from mtl_core.errors import TaskloomError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.balancing import Balancer
from mtl_core.training.config import TrainerConfig

ParameterGroup = dict[str, Any]
"""Parameters that share a learning rate: ``params``, by name; ``lr``; and ``scale``, its ratio to the trainer's own."""


def parameter_groups(
    config: TrainerConfig, model: MultitaskClassifier, balancer: Balancer | None = None
) -> list[ParameterGroup]:
    """Return the parameters that want gradients, grouped by the learning rate of their modules.

    A parameter that several modules own, as tied weights are, is in one group: that of the module whose rate
    ``module_lrs`` names, if it names one. The groups, and the parameters in each, are in the model's order. What the
    balancer learns comes last, in a group without weight decay.

    Raises:
        TaskloomError: If ``module_lrs`` names a module that the model lacks, or two rates for one parameter, or no
            parameter wants gradients.
    """
    check_modules("module_lrs", config.module_lrs, model)
    names: dict[nn.Parameter, str] = {}
    rates: dict[nn.Parameter, tuple[str, float]] = {}
    for module_name, module in model.module_pool.items():
        for path, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            names.setdefault(parameter, f"{module_name}/{path}")
            if (rate := config.module_lrs.get(module_name)) is None:
                continue
            other, known = rates.setdefault(parameter, (module_name, rate))
            if known != rate:
                raise TaskloomError(
                    f"modules '{other}' and '{module_name}' share a parameter, '{names[parameter]}', but module_lrs"
                    f" gives them the rates {known:g} and {rate:g}"
                )
    groups: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for parameter, name in names.items():
        _, rate = rates.get(parameter, ("", config.lr))
        groups.setdefault(rate, []).append((name, parameter))
    found: list[ParameterGroup] = [
        {"params": named, "lr": rate, "scale": 1.0 if rate == config.lr else rate / config.lr}
        for rate, named in groups.items()
    ]
    learnt = balancer.parameters() if balancer else {}
    if found and learnt:
        named = [(f"balancing:{name}", parameter) for name, parameter in learnt.items()]
        found.append({"params": named, "lr": config.lr, "scale": 1.0, "weight_decay": 0.0})
    return found


def set_learning_rate(groups: Iterable[ParameterGroup], rate: float) -> None:
    """Set the learning rate of every group of :func:`parameter_groups`, where the trainer's own is ``rate``."""
    for group in groups:
        group["lr"] = rate * group["scale"]


def check_modules(setting: str, names: Iterable[str], model: MultitaskClassifier) -> None:
    """Check that a setting names modules of the model.

    Raises:
        TaskloomError: If it does not; names the setting, the module and those that the model has.
    """
    for name in names:
        if name not in model.module_pool:
            raise TaskloomError(
                f"{setting}: the model has no module '{name}'; it has {sorted(model.module_pool)}"
            )
