"""A scoring: a trained version → its tasks' scores on further data."""

from __future__ import annotations

from collections.abc import Sequence

from app.runs import service
from app.runs.job import Job
from app.runs.preprocessing import load_preprocessing
from app.worker.attempt import Attempt
from app.worker.loading import SplitLoader
from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, load_module_weights
from mtl_core.building.tasks import build_tasks
from mtl_core.slicing import slice_remap

_SCORING_BATCH = 1024


def score(attempt: Attempt) -> None:
    """Score a version on every split of the job."""
    job, version = attempt.job, attempt.version()
    loader = loader_of(attempt)
    model = model_of(job, version.model)
    load_module_weights(model, attempt.store.load_tensors(version.sha256))
    scores = model.evaluate(scoring_loaders([loader.load(ref) for ref in job.splits]))
    attempt.end(lambda session: service.finish_scoring(session, attempt.claim, scores))


def loader_of(attempt: Attempt) -> SplitLoader:
    """Return what loads the splits of an attempt's job."""
    preprocessing = load_preprocessing(attempt.store, attempt.job.preprocessing)
    return SplitLoader(
        attempt.store,
        attempt.encoders,
        attempt.job,
        preprocessing,
        attempt.folder,
        attempt.settings.dataset_memory_bytes,
    )


def model_of(job: Job, name: str, seed: int | None = None) -> MultitaskClassifier:
    """Build the model of a job, with random weights."""
    model = MultitaskClassifier(build_tasks(job.tasks, seed), name=name)
    model.remap_labels.update(slice_remap(job.tasks) | job.remap_labels)
    return model


def scoring_loaders(datasets: Sequence[DictDataset]) -> list[DictDataLoader]:
    """Return loaders that scoring reads splits from."""
    return [DictDataLoader(dataset, batch_size=_SCORING_BATCH) for dataset in datasets]
