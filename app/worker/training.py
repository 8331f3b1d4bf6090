"""A training: specs → tasks → classifier → loaders → fit → version and scores."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from app.db.tables import Run
from app.logs import get_logger
from app.runs import service
from app.runs.job import Job
from app.runs.snapshots import kept
from app.runs.trainer_config import LOGS, RunTrainerConfig, trainer_settings
from app.runs.trials import finish_trial
from app.runs.verdict import bootstrap_of
from app.worker.attempt import Attempt
from app.worker.reporting import Reporter, TrainingReporter
from app.worker.scoring import loader_of, model_of, scoring_loaders
from app.worker.snapshots import snapshots_of
from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    TaskloomError,
    Trainer,
    TrainerConfig,
    TrainingStoppedError,
    load_module_weights,
    module_weights,
)
from mtl_core.data import is_labelled
from mtl_core.sharing import SharingStudy, SharingVerdict
from mtl_core.training.priors import set_class_priors
from mtl_core.training.validation import validate

log = get_logger(__name__)


def train(attempt: Attempt) -> None:
    """Train a model: a version and its scores come of it, or a trial of a search."""
    run, job, folder = attempt.run, attempt.job, attempt.folder
    loader = loader_of(attempt)
    config = RunTrainerConfig.model_validate(run.request["trainer"])
    if config.seed is None:
        config = config.model_copy(update={"seed": job.seed})
    model = model_of(job, run.model, config.seed)
    reporter = TrainingReporter(attempt.settings, attempt.claim, attempt.db, run, attempt.stop)
    (folder / "snapshots").mkdir()
    snapshots = snapshots_of(
        attempt.db,
        attempt.store,
        attempt.claim,
        folder / "snapshots",
        reporter,
        attempt.settings.snapshot_seconds,
    )
    reporter.on_log(f"training on {model.device}: tasks {model.task_names}, {len(model.module_pool)} modules")
    new = _initialise(attempt, model, reporter)
    if loader.maps:
        reporter.on_log(f"the data takes {loader.bytes / 2**20:,.0f} MiB: it is trained from mapped files")
    datasets = [loader.load(ref) for ref in job.splits]
    _warn_of_untrained(job, datasets, config, reporter)
    loaders = _training_loaders(datasets, config)
    if config.class_prior_bias:
        _set_priors(model, loaders, config, new, reporter)
    (folder / LOGS).mkdir()
    settings = TrainerConfig(**trainer_settings(config, job.frozen, folder))
    bootstrap = bootstrap_of(run, config.seed)
    study = bootstrap and SharingStudy(model, settings, loaders, bootstrap, reporter, str(folder), snapshots)
    trainer = Trainer(run.model, **(study.config if study else settings).model_dump())
    verdict = None
    try:
        with attempt.stop.heeded():
            trainer.fit(model, loaders, study.listener if study else reporter, snapshots("shared"))
            if study:
                verdict = study.verdict(trainer.affinities)
    except TrainingStoppedError:
        reporter.flush()
        if reporter.failure:
            raise TaskloomError(reporter.failure) from None
        raise
    finally:
        if config.logging:
            _keep_log(attempt)
    reporter.finish()

    _finish(attempt, config, model, datasets, loaders, verdict)


def _finish(
    attempt: Attempt,
    config: RunTrainerConfig,
    model: MultitaskClassifier,
    datasets: Sequence[DictDataset],
    loaders: Sequence[DictDataLoader],
    verdict: SharingVerdict | None,
) -> None:
    """Score the trained model, and end the run with all that it made."""
    run = attempt.run
    scores = model.evaluate(scoring_loaders(datasets))
    weights = attempt.store.put_tensors(module_weights(model))
    with attempt.db.read() as session:
        obsolete = kept(session.get_one(Run, run.id)).names
    metrics: dict[str, float] = {}
    if run.parent:
        valid = [loader for loader in loaders if loader.dataset.split == config.valid_split]
        metrics = validate(model, valid, config.valid_split)

    def finish(session: Session) -> str:
        if run.parent:
            finish_trial(session, attempt.claim, weights, scores, metrics)
            return f"trial of {run.parent}"
        version = service.finish_training(session, attempt.claim, attempt.job, weights, scores, verdict)
        return f"version {version}"

    made = attempt.end(finish)
    if made is not None:
        log.info("run succeeded", made=made, scores=len(scores))
        for name in obsolete:
            attempt.store.remove(name)


def _initialise(attempt: Attempt, model: MultitaskClassifier, reporter: Reporter) -> list[str]:
    """Load the weights that modules start from, and return the modules that have none."""
    job = attempt.job
    sources: list[str] = []
    for ref in job.weights:
        load_module_weights(model, attempt.store.load_tensors(ref.sha256), ref.modules)
        names = sorted(
            name if name == theirs else f"{theirs} as {name}" for name, theirs in ref.modules.items()
        )
        of_model = "" if ref.model == model.name else f" of model '{ref.model}'"
        sources.append(f"from version {ref.version}{of_model}: modules {names}")
    given = {name for ref in job.weights for name in ref.modules}
    new = [name for name in model.module_pool if name not in given]
    if sources:
        reporter.on_log("; ".join([*sources, f"new: {sorted(new)}"]))
    if job.frozen:
        reporter.on_log(f"modules that stay as they are: {sorted(job.frozen)}")
    return new


def _keep_log(attempt: Attempt) -> None:
    packed = shutil.make_archive(str(attempt.folder / "log"), "zip", attempt.folder / LOGS)
    log_sha256 = attempt.store.put_file(Path(packed)).sha256
    attempt.end(lambda session: service.keep_log(session, attempt.claim, log_sha256))


def _set_priors(
    model: MultitaskClassifier,
    loaders: Sequence[DictDataLoader],
    config: RunTrainerConfig,
    new: Sequence[str],
    reporter: Reporter,
) -> None:
    """Start the new heads at their classes' shares; those that were trained before know better."""
    train = [loader for loader in loaders if loader.dataset.split == config.train_split]
    for line in set_class_priors(model, train, new):
        reporter.on_log(line)


def _training_loaders(datasets: Sequence[DictDataset], config: RunTrainerConfig) -> list[DictDataLoader]:
    """Return loaders of the splits that training knows; training examples are shuffled as batches are."""
    return [
        DictDataLoader(
            dataset,
            batch_size=config.batch_size,
            shuffle=dataset.split == config.train_split and config.batch_scheduler != "sequential",
        )
        for dataset in datasets
        if dataset.split in (config.train_split, config.valid_split, config.test_split)
    ]


def _warn_of_untrained(
    job: Job, datasets: Sequence[DictDataset], config: RunTrainerConfig, reporter: Reporter
) -> None:
    trained = {
        task
        for dataset in datasets
        if dataset.split == config.train_split
        for task, labels in dataset.Y_dict.items()
        if bool(is_labelled(labels).any())
    }
    for spec in job.tasks:
        if spec.name not in trained:
            reporter.on_log(
                f"task '{spec.name}' has no label in the split '{config.train_split}': what only it uses stays as it is"
            )
