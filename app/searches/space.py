"""Where a search looks: from proposed parameters to the training that has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from app.db.tables import Model
from app.models.service import argument_fault
from app.problems import Invalid
from app.runs.trainer_config import RunTrainerConfig
from app.searches.schemas import Choice, Dimension, FloatRange, IntRange
from mtl_core.errors import Fault, pointer_to, suggestion

TRAINER, ARCHITECTURE = "trainer", "architecture"

Point = dict[str, int | float]
"""A proposal: a number for each range, and for each choice its place in the list."""

_UNKNOWN = "there is no such setting"
_MAX_VALUES = 1024
_MAX_ARCHITECTURES = 64
# Trials that train or are judged on other examples have nothing in common to be compared by.
_FIXED = ("train_split", "valid_split", "test_split")


def params_of(space: Mapping[str, Dimension], point: Point) -> dict[str, Any]:
    """Return the values that a proposal stands for."""
    return {
        key: dimension.choices[int(point[key])] if isinstance(dimension, Choice) else point[key]
        for key, dimension in space.items()
    }


def architecture_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the architecture among some parameters, by their own names."""
    parts = {key: key.partition(".") for key in params}
    return {name: params[key] for key, (group, _, name) in parts.items() if group == ARCHITECTURE}


def trainer_with(trainer: RunTrainerConfig, params: Mapping[str, Any]) -> RunTrainerConfig:
    """Return settings with the trainer's among some parameters put in.

    Raises:
        Invalid: If a setting is not known, or does not take the value.
    """
    settings = trainer.model_dump(mode="json")
    for key, value in params.items():
        group, *path = key.split(".")
        if group == TRAINER:
            _put(settings, path, value)
    try:
        return RunTrainerConfig.model_validate(settings)
    except ValidationError as error:
        faults = [
            Fault(pointer_to(TRAINER, *fault["loc"]), _said(fault["type"], fault["msg"]))
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise Invalid(faults[0].detail, faults) from None


def check_keys(space: Mapping[str, Dimension], model: Model) -> None:
    """Refuse what cannot be searched over, whatever its values.

    Args:
        space: Where the search looks.
        model: What it trains.

    Raises:
        Invalid: At each key that names no setting or argument, or one that may not differ from trial to trial, or a
            part of another; or at the whole space where its bounds and choices are too many to try each of them
            beforehand.
    """
    faults = [
        Fault(pointer_to("space", key), fault)
        for key in space
        if (fault := _key_fault(key, space, model)) is not None
    ]
    values = {key: sum(1 for _ in probes(dimension)) for key, dimension in space.items()}
    architectures = sum(n for key, n in values.items() if key.partition(".")[0] == ARCHITECTURE)
    if sum(values.values()) > _MAX_VALUES:
        faults.append(
            Fault("/space", f"it has {sum(values.values())} bounds and choices, {_MAX_VALUES} at most")
        )
    if architectures > _MAX_ARCHITECTURES:
        detail = (
            f"it has {architectures} bounds and choices of the architecture, {_MAX_ARCHITECTURES} at most"
        )
        faults.append(Fault("/space", detail))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)


def probes(dimension: Dimension) -> Iterator[tuple[Sequence[str | int], Any]]:
    """Yield the values of a dimension that must each be allowed, with where they stand in it."""
    if isinstance(dimension, Choice):
        yield from ((("choices", i), value) for i, value in enumerate(dimension.choices))
        return
    yield ("low",), dimension.low
    yield ("high",), dimension.high
    if isinstance(dimension, FloatRange) and dimension.low < dimension.high:
        # A setting may take whole numbers alone, as both bounds happen to be.
        yield (), _between(dimension)


def highest(dimension: FloatRange | IntRange) -> float:
    """Return the greatest number of a range that its steps reach."""
    if not dimension.step:
        return dimension.high
    # As written: what floats lose would cost the last step.
    low, high, step = (Decimal(str(n)) for n in (dimension.low, dimension.high, dimension.step))
    return float(low + (high - low) // step * step)


def _between(dimension: FloatRange) -> float:
    if dimension.log:
        return math.sqrt(dimension.low) * math.sqrt(dimension.high)
    return dimension.low + (dimension.high - dimension.low) * 0.4142


def _key_fault(key: str, space: Mapping[str, Dimension], model: Model) -> str | None:
    group, _, path = key.partition(".")
    if group not in (TRAINER, ARCHITECTURE) or not path:
        return f"it must name '{TRAINER}.' and a setting, or '{ARCHITECTURE}.' and an argument, such as trainer.lr"
    if group == TRAINER and path in _FIXED:
        return f"'{path}' must be the same for all trials: set it in train.trainer"
    whole = next((other for other in space if key.startswith(f"{other}.")), None)
    if whole:
        return f"it is a part of '{whole}', which is searched over as a whole"
    return argument_fault(model, path) if group == ARCHITECTURE else _setting_fault(path)


def _setting_fault(path: str) -> str | None:
    """Say that a name on the way to a setting is unknown; below a setting that is no group, any may be known."""
    group: type[BaseModel] = RunTrainerConfig
    for name in path.split("."):
        if name not in group.model_fields:
            return f"{_UNKNOWN}; {suggestion(name[:64], group.model_fields)}"
        of = group.model_fields[name].annotation
        if not (isinstance(of, type) and issubclass(of, BaseModel)):
            return None
        group = of
    return None


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Put a value where a path leads; from the first name that is not there on, the rest is one name, as modules'."""
    node = settings
    for i, name in enumerate(path[:-1]):
        inner = node.get(name)
        if not isinstance(inner, dict):
            node[".".join(path[i:])] = value
            return
        node = cast("dict[str, Any]", inner)
    node[path[-1]] = value


def _said(kind: str, message: str) -> str:
    return _UNKNOWN if kind == "extra_forbidden" else message.removeprefix("Value error, ")
