"""A calibration: a version and a split's labels → temperatures → another version, and scores of both."""

from __future__ import annotations

from collections.abc import Sequence

from app.calibrations.service import finish_calibration, request_of
from app.worker.attempt import Attempt
from app.worker.reporting import Reporter
from app.worker.scoring import loader_of, model_of, scoring_loaders
from mtl_core import MultitaskClassifier, TaskloomError, load_module_weights, module_weights
from mtl_core.building.tasks import build_tasks
from mtl_core.calibration import calibrate
from mtl_core.data import DictDataLoader
from mtl_core.scoring.scorer import Score
from mtl_core.specs import TaskSpec

_METRICS = ("calibration_error", "classwise_calibration_error")


def calibrate_version(attempt: Attempt) -> None:
    """Calibrate a version, and score it before and after on every split of the job."""
    job, request = attempt.job, request_of(attempt.run)
    reporter = Reporter(attempt.settings, attempt.claim, attempt.db, attempt.run, attempt.stop)
    loader = loader_of(attempt)
    model = model_of(job, attempt.run.model)
    for ref in job.weights:
        load_module_weights(model, attempt.store.load_tensors(ref.sha256))
    loaders = scoring_loaders([loader.load(ref) for ref in job.splits])
    fitted_on = [each for each in loaders if each.dataset.split == request.split]
    calibration = calibrate(model, job.tasks, fitted_on, request.tasks, request.per_class)
    for name, task in calibration.tasks.items():
        reporter.on_log(
            f"task '{name}': temperatures {[round(t, 3) for t in task.temperatures]}, calibration error"
            f" {task.before.calibration_error:.4f} before, {task.after.calibration_error:.4f} now"
        )
    for name, reason in calibration.left_out.items():
        reporter.on_log(f"task '{name}' stays as it is: {reason}")
    if not calibration.tasks:
        raise TaskloomError(f"no task could be calibrated: {calibration.left_out}")
    wanted = set(calibration.tasks)
    before = [score for score in _scores(model, job.tasks, wanted, loaders) if score.metric in _METRICS]
    after = _scores(calibration.model, calibration.specs, wanted, loaders)
    reporter.finish()
    weights = attempt.store.put_tensors(module_weights(calibration.model))
    attempt.end(
        lambda session: finish_calibration(session, attempt.claim, job, calibration, weights, before, after)
    )


def _scores(
    model: MultitaskClassifier,
    specs: Sequence[TaskSpec],
    calibrated: set[str],
    loaders: Sequence[DictDataLoader],
) -> list[Score]:
    """Score a model by its tasks' metrics, and some of them by their calibration, too."""
    judged = [
        spec.model_copy(update={"metrics": [*spec.metrics, *(m for m in _METRICS if m not in spec.metrics)]})
        if spec.name in calibrated
        else spec
        for spec in specs
    ]
    scored = MultitaskClassifier(build_tasks(judged), name=model.name, device=model.device)
    load_module_weights(scored, module_weights(model))
    scored.remap_labels.update(model.remap_labels)
    return scored.evaluate(loaders)
