"""What a training starts from: which modules take their weights from which trained versions, and which are new."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from pydantic import BaseModel
from sqlalchemy.orm import Session
from torch import nn

from app.db.tables import Model, Version
from app.models import service as models
from app.problems import Invalid, NotFound
from app.runs.schemas import ModuleSource
from app.runs.trainer_config import some_of
from mtl_core.building.tasks import build_tasks
from mtl_core.errors import Fault, pointer_to
from mtl_core.model.architecture import difference
from mtl_core.specs import TaskSpec


class WeightsRef(BaseModel):
    """Weights of a version that a training starts from."""

    model: str
    version: int
    sha256: str
    modules: dict[str, str]
    """The training's module → the version's."""


def find_start(
    session: Session,
    model: Model,
    specs: Sequence[TaskSpec],
    base: Version | None,
    wanted: Mapping[str, ModuleSource],
) -> tuple[list[WeightsRef], list[str]]:
    """Say which modules start from which weights; all others start from random ones.

    Args:
        session: The transaction.
        model: The model to be trained.
        specs: Its tasks, every size filled in.
        base: The version that modules are taken from unless they are in ``wanted``, as far as it has them unchanged.
        wanted: Modules that are taken from elsewhere.

    Returns:
        Where modules take their weights from, and the names of all modules of the training.

    Raises:
        Invalid: If a wanted module, or where it should come from, is not there, or the two are built differently.
    """
    modules = _modules_of(specs)
    weights: list[WeightsRef] = []
    faults: list[Fault] = []
    of_version = cache(_modules_of_version)
    for name, source in wanted.items():
        at = pointer_to("init_modules", name)
        if name not in modules:
            faults.append(Fault(at, f"the model has no module '{name}'; it has {some_of(modules)}"))
            continue
        try:
            version = _version_of(session, model, source)
        except NotFound as error:
            faults.append(Fault(f"{at}/version", error.detail))
            continue
        theirs, their_name = of_version(version), source.module or name
        where = f"version {version.number} of model '{version.model}'"
        if their_name not in theirs:
            faults.append(Fault(at, f"{where} has no module '{their_name}'; it has {some_of(theirs)}"))
        elif what := difference(modules[name], theirs[their_name]):
            faults.append(Fault(at, f"module '{their_name}' of {where} is built differently: {what}"))
        else:
            weights.append(_weights(version, {name: their_name}))
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}", faults)
    if base is not None:
        before = of_version(base)
        kept = [
            name
            for name, module in modules.items()
            if name not in wanted and name in before and difference(module, before[name]) is None
        ]
        weights.insert(0, _weights(base, {name: name for name in kept}))
    return weights, list(modules)


def whole_version(version: Version) -> WeightsRef:
    """Return what pins all weights of a version."""
    return _weights(version, {name: name for name in _modules_of_version(version)})


def _version_of(session: Session, model: Model, source: ModuleSource) -> Version:
    owner = models.get(session, source.model) if source.model else model
    return models.find_version(session, owner, source.version)


def _weights(version: Version, modules: dict[str, str]) -> WeightsRef:
    return WeightsRef(model=version.model, version=version.number, sha256=version.sha256, modules=modules)


def _modules_of_version(version: Version) -> dict[str, nn.Module]:
    return _modules_of(TaskSpec.model_validate(spec) for spec in version.tasks)


def _modules_of(specs: Iterable[TaskSpec]) -> dict[str, nn.Module]:
    # Architectures are compared, and those take no memory on the meta device.
    with torch.device("meta"):
        return {name: module for task in build_tasks(specs) for name, module in task.module_pool.items()}
