"""The training that a search starts from, pinned, and those that its trials are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Model, ModelTask
from app.models import service as models
from app.runs.preprocessing import load_preprocessing
from app.runs.schemas import ModuleSource, TrainIn
from app.runs.service import PlannedTraining, plan_training
from app.searches.space import architecture_of, trainer_with
from app.searches.state import SearchJob
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core.building.tasks import Limits


@dataclass(frozen=True)
class Surroundings:
    """What trainings are planned with.

    Attributes:
        session: The transaction.
        store: Where artifacts are.
        encoders: Sentence encoders for columns of text.
        limits: What a spec may ask for.
    """

    session: Session
    store: ArtifactStore
    encoders: SentenceEncoders
    limits: Limits


def pin(model: Model, request: TrainIn, planned: PlannedTraining, seed: int) -> SearchJob:
    """Return what a search is to do: what is registered later, or put on the model, changes nothing of it.

    Args:
        model: The model.
        request: The training that all trials have in common.
        planned: What it comes to.
        seed: The trainings' seed where the client gives none.
    """
    job = planned.job
    versions = {ref.dataset: ref.version for ref in job.splits}
    names = [wanted.partition("@")[0] for wanted in request.datasets]
    wanted = {
        name: ModuleSource(model=ref.model, version=ref.version, module=theirs)
        for ref in job.weights
        for name, theirs in ref.modules.items()
        if name in request.init_modules
    }
    trainer = request.trainer
    if trainer.seed is None:
        trainer = trainer.model_copy(update={"seed": seed})
    train = request.model_copy(
        update={
            "datasets": [f"{name}@{versions[name]}" for name in names],
            "trainer": trainer,
            "init_from": job.init_from,
            "init_modules": wanted,
        }
    )
    return SearchJob(
        **dict(job),
        train=train,
        modules=planned.modules,
        architecture=model.architecture,
        outlines=[link.outline for link in model.tasks if link.outline is not None],
    )


def plan_trial(
    around: Surroundings, model: str, job: SearchJob, params: Mapping[str, Any]
) -> tuple[TrainIn, PlannedTraining]:
    """Return a training as a trial's parameters have it.

    Args:
        around: What it is planned with.
        model: The model's name.
        job: What the search is to do.
        params: The parameters.

    Raises:
        Invalid: If a parameter is unknown, or the training does not take its value.
        TaskloomError: If the architecture does not.
    """
    request = job.train.model_copy(update={"trainer": trainer_with(job.train.trainer, params)})
    sizes = architecture_of(params)
    if sizes:
        pinned = _as_it_was(model, job)
        specs = models.expanded(pinned, sizes)
        given = load_preprocessing(around.store, job.preprocessing)
        planned = plan_training(
            around.session, around.store, around.encoders, pinned, specs, request, around.limits, given
        )
    else:
        planned = PlannedTraining(job.base, job.modules)
        planned.check(request.trainer)
    return request, planned


def _as_it_was(model: str, job: SearchJob) -> Model:
    """Return the model as it was when the search began; it belongs to no transaction."""
    tasks = [
        ModelTask(task=outline["name"], position=i, outline=outline) for i, outline in enumerate(job.outlines)
    ]
    return Model(name=model, architecture=job.architecture, tasks=tasks)
