"""What a training process does with one run: specs → tasks → classifier → loaders → fit → version and scores."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

import structlog
import torch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.cores import usable_cores
from app.db.session import DATABASE_AWAY, Database
from app.db.tables import Run, Version
from app.logs import configure_logs, get_logger
from app.problems import Problem
from app.runs import lease, service
from app.runs.job import Job
from app.runs.lease import Claim, LeaseLostError
from app.runs.preprocessing import load_preprocessing
from app.runs.snapshots import kept
from app.runs.trainer_config import LOGS, RunTrainerConfig, trainer_settings
from app.runs.trials import finish_trial
from app.runs.verdict import bootstrap_of
from app.settings import Settings
from app.storage.artifacts import ArtifactStore, DamagedArtifactError
from app.storage.encoders import SentenceEncoders
from app.worker.loading import SplitLoader
from app.worker.reporting import Reporter, StopSignal
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
from mtl_core.building.tasks import build_tasks
from mtl_core.data import is_labelled
from mtl_core.sharing import SharingStudy, SharingVerdict
from mtl_core.slicing import slice_remap
from mtl_core.training.priors import set_class_priors
from mtl_core.training.validation import validate

log = get_logger(__name__)

T = TypeVar("T")
_SCORING_BATCH = 1024


def execute(settings: Settings, claim: Claim, gpu: int | None = None) -> None:
    """Do a claimed run to its end, whatever end that is; the entry point of a training process.

    Args:
        settings: The worker's settings.
        claim: The worker's hold on the run.
        gpu: The GPU that the run has to itself; default: whichever there are.
    """
    configure_logs(settings)
    # Ctrl-C reaches every process of the terminal; the worker decides what becomes of the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = StopSignal()
    _die_with_parent()
    _offer_to_oom_killer()
    if gpu is not None:
        # Torch looks for GPUs when it first needs one, which is later.
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    torch.set_num_threads(threads_of(settings))
    db = Database(settings.resolved_database_url)

    def end(write: Callable[[Session], object]) -> None:
        _end(settings, db, write)

    with structlog.contextvars.bound_contextvars(run_id=claim.run):
        try:
            _Execution(settings, claim, db, stop).run()
        except LeaseLostError:
            log.warning("lease lost, stopping")
        except TrainingStoppedError:
            status = _end(settings, db, lambda s: lease.hand_back(s, claim))
            log.info("run stopped", status=status)
        except (OSError, SQLAlchemyError) as error:
            # A full disk, or a database that is away: nothing that the run could do about.
            log.exception("run broke down")
            reason = _breakdown(error)
            end(lambda s: lease.crash(s, claim, reason, settings.max_attempts))
        except Exception as error:
            reason = _failure(error)
            log.warning("run failed", reason=reason, exc_info=not isinstance(error, _EXPLAINED))
            end(lambda s: lease.fail(s, claim, reason))
    db.dispose()


class _Execution:
    """One attempt at a run."""

    def __init__(self, settings: Settings, claim: Claim, db: Database, stop: StopSignal) -> None:
        self.settings = settings
        self.claim = claim
        self.db = db
        self.stop = stop
        self.store = ArtifactStore(settings.artifacts_dir)

    def run(self) -> None:
        with self.db.read() as session:
            run = service.get(session, self.claim.run)
            job = service.job_of(run)
            version = session.get(Version, (run.model, run.model_version)) if run.kind == "score" else None
        with self.store.scratch() as folder:
            preprocessing = load_preprocessing(self.store, job.preprocessing)
            loader = SplitLoader(
                self.store,
                SentenceEncoders(self.settings.sentence_encoders),
                job,
                preprocessing,
                folder,
                self.settings.dataset_memory_bytes,
            )
            if run.kind == "train":
                self._train(run, job, loader, folder)
            else:
                assert version is not None
                self._score(job, version, loader)

    def _train(self, run: Run, job: Job, loader: SplitLoader, folder: Path) -> None:
        config = RunTrainerConfig.model_validate(run.request["trainer"])
        if config.seed is None:
            config = config.model_copy(update={"seed": job.seed})
        model = _model_of(job, run.model, config.seed)
        reporter = Reporter(self.settings, self.claim, self.db, run, self.stop)
        (folder / "snapshots").mkdir()
        snapshots = snapshots_of(
            self.db,
            self.store,
            self.claim,
            folder / "snapshots",
            reporter,
            self.settings.snapshot_seconds,
        )
        reporter.on_log(
            f"training on {model.device}: tasks {model.task_names}, {len(model.module_pool)} modules"
        )
        new = self._initialise(model, job, reporter)
        if loader.maps:
            reporter.on_log(
                f"the data takes {loader.bytes / 2**20:,.0f} MiB: it is trained from mapped files"
            )
        datasets = [loader.load(ref) for ref in job.splits]
        _warn_of_untrained(job, datasets, config, reporter)
        loaders = _training_loaders(datasets, config)
        if config.class_prior_bias:
            _set_priors(model, loaders, config, new, reporter)
        (folder / LOGS).mkdir()
        settings = TrainerConfig(**trainer_settings(config, job.frozen, folder))
        bootstrap = bootstrap_of(run, config.seed)
        study = bootstrap and SharingStudy(
            model, settings, loaders, bootstrap, reporter, str(folder), snapshots
        )
        trainer = Trainer(run.model, **(study.config if study else settings).model_dump())
        verdict = None
        try:
            with self.stop.heeded():
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
                self._keep_log(folder)
        reporter.finish()

        self._finish(run, job, config, model, datasets, loaders, verdict)

    def _finish(
        self,
        run: Run,
        job: Job,
        config: RunTrainerConfig,
        model: MultitaskClassifier,
        datasets: Sequence[DictDataset],
        loaders: Sequence[DictDataLoader],
        verdict: SharingVerdict | None,
    ) -> None:
        """Score the trained model, and end the run with all that it made."""
        scores = model.evaluate(_scoring_loaders(datasets))
        weights = self.store.put_tensors(module_weights(model))
        with self.db.read() as session:
            obsolete = kept(session.get_one(Run, run.id)).names
        metrics: dict[str, float] = {}
        if run.parent:
            valid = [loader for loader in loaders if loader.dataset.split == config.valid_split]
            metrics = validate(model, valid, config.valid_split)

        def finish(session: Session) -> str:
            if run.parent:
                finish_trial(session, self.claim, weights, scores, metrics)
                return f"trial of {run.parent}"
            version = service.finish_training(session, self.claim, job, weights, scores, verdict)
            return f"version {version}"

        made = _end(self.settings, self.db, finish)
        if made is not None:
            log.info("run succeeded", made=made, scores=len(scores))
            for name in obsolete:
                self.store.remove(name)

    def _score(self, job: Job, version: Version, loader: SplitLoader) -> None:
        model = _model_of(job, version.model)
        load_module_weights(model, self.store.load_tensors(version.sha256))
        scores = model.evaluate(_scoring_loaders([loader.load(ref) for ref in job.splits]))
        _end(self.settings, self.db, lambda s: service.finish_scoring(s, self.claim, scores))

    def _initialise(self, model: MultitaskClassifier, job: Job, reporter: Reporter) -> list[str]:
        """Load the weights that modules start from, and return the modules that have none."""
        sources: list[str] = []
        for ref in job.weights:
            load_module_weights(model, self.store.load_tensors(ref.sha256), ref.modules)
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

    def _keep_log(self, folder: Path) -> None:
        packed = shutil.make_archive(str(folder / "log"), "zip", folder / LOGS)
        log_sha256 = self.store.put_file(Path(packed)).sha256
        _end(self.settings, self.db, lambda s: service.keep_log(s, self.claim, log_sha256))


def _model_of(job: Job, name: str, seed: int | None = None) -> MultitaskClassifier:
    model = MultitaskClassifier(build_tasks(job.tasks, seed), name=name)
    model.remap_labels.update(slice_remap(job.tasks) | job.remap_labels)
    return model


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


def _scoring_loaders(datasets: Sequence[DictDataset]) -> list[DictDataLoader]:
    return [DictDataLoader(dataset, batch_size=_SCORING_BATCH) for dataset in datasets]


def threads_of(settings: Settings) -> int:
    """Return how many CPU threads a training computes with.

    Trainings side by side that have several threads each wait for one another at every operation, which makes them many
    times slower than with one; so one thread is the default there, and every core where a training is alone.
    """
    alone = usable_cores() if settings.worker_slots == 1 else 1
    return settings.training_threads or alone


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


_EXPLAINED = (TaskloomError, Problem, DamagedArtifactError)
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def _failure(error: Exception) -> str:
    """Return why a run fails for its own fault, in words that its owner can act on."""
    if isinstance(error, _EXPLAINED):
        return str(error)
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        asked = text.splitlines()[0] if text else "it does not say for what"
        return f"out of memory: a smaller batch_size, or smaller layers, take less ({asked})"
    return f"{type(error).__name__}: {text}"


def _breakdown(error: OSError | SQLAlchemyError) -> str:
    """Return what broke down; which path or statement it was stays in the log, as clients read this."""
    if isinstance(error, OSError):
        return f"the worker's machine reports: {error.strerror or type(error).__name__}"
    return f"the worker could not use the database ({type(error).__name__})"


def _end(settings: Settings, db: Database, write: Callable[[Session], T]) -> T | None:
    """Write a run's end; while the database is away, try again as long as a lease lasts.

    Returns:
        What ``write`` answers; None where the run is another worker's by now, and nothing was written.
    """
    deadline = time.monotonic() + settings.lease_seconds
    while True:
        try:
            with db.write() as session:
                return write(session)
        except LeaseLostError:
            log.warning("lease lost, nothing written")
            return None
        except DATABASE_AWAY as error:
            if time.monotonic() > deadline:
                raise
            log.warning("database unavailable, trying again", error=str(error))
            time.sleep(0.5)


def _offer_to_oom_killer() -> None:
    """Have Linux, when memory runs out, end this process rather than the worker or the server."""
    setting = Path("/proc/self/oom_score_adj")
    if setting.exists():
        setting.write_text("800")


def _die_with_parent() -> None:
    """End this process as soon as the worker that started it is gone: nobody renews its lease any more."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
