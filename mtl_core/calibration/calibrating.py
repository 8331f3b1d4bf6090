"""From a trained model to one whose probabilities are calibrated, and how far that brought them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from mtl_core.building.tasks import build_tasks
from mtl_core.calibration.specs import calibrated_spec, calibration_obstacle, temperature_module
from mtl_core.calibration.temperatures import LabelledLogits, fit
from mtl_core.data import DictDataLoader
from mtl_core.errors import TaskloomError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.evaluation import Evaluation, tasks_of_labels
from mtl_core.model.inference import evaluation_mode
from mtl_core.model.weights import load_module_weights, module_weights
from mtl_core.modules.temperature import Temperature
from mtl_core.outputs import Output
from mtl_core.scoring.metrics import METRICS, Array, UndefinedMetricError
from mtl_core.specs import TaskSpec


@dataclass(frozen=True)
class ProbabilityScores:
    """How good a task's probabilities are; lower is better, and NaN is undefined.

    Attributes:
        log_loss: Mean negative log-likelihood (nats) of a label: what the temperatures make as small as it can be.
        calibration_error: The metric of that name over all labels; of several labels an example, all as one.
        classwise_calibration_error: The metric of that name.
    """

    log_loss: float
    calibration_error: float
    classwise_calibration_error: float


@dataclass(frozen=True)
class CalibratedTask:
    """What calibrating one task came to.

    Attributes:
        temperatures: 1 for all logits, or one for each class or output.
        n_labels: How many labels they were fitted to, each of those of an example, or its positions, by itself.
        before: Scores on these labels of the model as it was.
        after: Scores on these labels of the model as it is now.
    """

    temperatures: list[float]
    n_labels: int
    before: ProbabilityScores
    after: ProbabilityScores


@dataclass(frozen=True)
class Calibration:
    """A model that was calibrated.

    Attributes:
        specs: All its tasks, in the order in which they were given.
        model: The new model: all weights as they were, and the temperatures.
        tasks: The tasks that were calibrated, by name.
        left_out: Why others that were wanted are as they were, by name.
    """

    specs: list[TaskSpec]
    model: MultitaskClassifier
    tasks: dict[str, CalibratedTask]
    left_out: dict[str, str]


def calibrate(
    model: MultitaskClassifier,
    specs: Sequence[TaskSpec],
    dataloaders: Sequence[DictDataLoader],
    task_names: Collection[str] | None = None,
    per_class: bool = False,
) -> Calibration:
    """Fit temperatures to a trained model's tasks, on labels that it should not have been trained on.

    With one temperature a task, what a softmax predicts stays as it is, and so does what a sigmoid predicts whose
    threshold is 0.5: only the probabilities change. Tasks that were calibrated before are calibrated anew.

    Args:
        model: The trained model; it stays as it is.
        specs: All its tasks, with nothing left open that comes with the data.
        dataloaders: The splits; where several label a task, their labels count together.
        task_names: The tasks to calibrate; default: all.
        per_class: Whether a task has a temperature for each class or output, which may change what is predicted;
            default: one for all.

    Raises:
        TaskloomError: If there is no task of a name, or the model is not one of these specs.
        OperationError: If an operation fails on its inputs.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, 2017 (https://arxiv.org/abs/1706.04599).
    """
    by_name = {spec.name: spec for spec in specs}
    wanted = list(by_name) if task_names is None else list(dict.fromkeys(task_names))
    if strange := [name for name in wanted if name not in by_name or name not in model.tasks]:
        raise TaskloomError(f"there is no task '{strange[0]}'; there are {list(by_name)}")
    obstacles = {name: calibration_obstacle(by_name[name]) for name in wanted}
    left_out = {name: obstacle for name, obstacle in obstacles.items() if obstacle}
    parts: dict[str, list[LabelledLogits]] = {name: [] for name in wanted if name not in left_out}
    for name, logits, golds in _answers(model, specs, list(parts), dataloaders):
        try:
            parts[name].append(LabelledLogits.of(logits, golds, model.tasks[name].output_func))
        except TaskloomError as reason:
            left_out[name] = str(reason)
    fitted: dict[str, torch.Tensor] = {}
    tasks: dict[str, CalibratedTask] = {}
    for name in [name for name in parts if name not in left_out]:
        try:
            labelled = LabelledLogits.joined(parts[name])
            # As the model will have them.
            fitted[name] = fit(labelled, per_class).float()
        except TaskloomError as reason:
            left_out[name] = str(reason)
        else:
            before = _temperatures_of(model, by_name[name])
            tasks[name] = _report(labelled, before, fitted[name], model.tasks[name].output_func)
    calibrated_specs, calibrated = _remade(model, specs, fitted)
    return Calibration(calibrated_specs, calibrated, tasks, left_out)


def _answers(
    model: MultitaskClassifier,
    specs: Sequence[TaskSpec],
    task_names: Collection[str],
    dataloaders: Iterable[DictDataLoader],
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield each label set of the tasks: whose it is, logits before any temperature ``[n, …]``, labels ``[n, …]``."""
    # A temperature of 1 changes no bit.
    plain = _remade(model, specs, dict.fromkeys(task_names, torch.ones(1)))[1]
    with evaluation_mode(plain):
        evaluation = Evaluation(plain)
        for loader in dataloaders:
            of_labels = tasks_of_labels(plain, loader.dataset.Y_dict, None)
            task_of = {label: name for label, name in of_labels.items() if name in task_names}
            kinds = dict.fromkeys(task_of.values(), ("logits",))
            predicted = evaluation.predict(loader, task_of, kinds, in_any_order=True)
            for label, name in task_of.items():
                yield name, predicted.of_task("logits", name), predicted.reading.golds(label)


def _remade(
    model: MultitaskClassifier, specs: Sequence[TaskSpec], temperatures: Mapping[str, torch.Tensor]
) -> tuple[list[TaskSpec], MultitaskClassifier]:
    """Return specs and model with new temperatures at the ends of some tasks' paths, all else as it is."""
    made = list(specs)
    modules: dict[str, torch.Tensor] = {}
    for i, spec in enumerate(specs):
        if spec.name in temperatures:
            taken = {name for other in made if other is not spec for name in other.module_pool}
            made[i] = calibrated_spec(spec, len(temperatures[spec.name]), taken)
            modules[made[i].op_sequence[-1].module_name] = temperatures[spec.name]
    tasks = build_tasks(made, seed=0)
    calibrated = MultitaskClassifier(tasks, model.name, model.device, model.config.dataparallel)
    kept = [name for name in calibrated.module_pool if name not in modules]
    load_module_weights(calibrated, module_weights(model), kept)
    for name, values in modules.items():
        cast("Temperature", calibrated.module_pool[name]).temperature.copy_(values)
    calibrated.remap_labels = dict(model.remap_labels)
    return made, calibrated.train(model.training)


def _report(
    labelled: LabelledLogits, before: torch.Tensor, after: torch.Tensor, output: Output
) -> CalibratedTask:
    return CalibratedTask(
        [float(temperature) for temperature in after],
        labelled.n_labels,
        _scores(labelled, before, output),
        _scores(labelled, after, output),
    )


def _temperatures_of(model: MultitaskClassifier, spec: TaskSpec) -> torch.Tensor:
    """Return by what a task's logits are divided so far: ``[1]`` or ``[k]``, on the CPU."""
    name = temperature_module(spec)
    return torch.ones(1) if name is None else cast("Temperature", model.module_pool[name]).temperature.cpu()


def _scores(labelled: LabelledLogits, temperatures: torch.Tensor, output: Output) -> ProbabilityScores:
    """Return how good the probabilities are that the model answers at temperatures ``[1]`` or ``[k]``."""
    probs = output(labelled.logits / temperatures.float()).numpy()
    golds = labelled.labels.numpy()
    given = slice(None) if labelled.exclusive else golds == golds  # noqa: PLR0124 NaN alone differs from itself.
    return ProbabilityScores(
        labelled.log_loss(temperatures),
        _metric("calibration_error", golds[given], probs[given]),
        _metric("classwise_calibration_error", golds, probs),
    )


def _metric(name: str, golds: Array, probs: Array) -> float:
    try:
        return METRICS.build(name)(golds, golds, probs)
    except UndefinedMetricError:
        return math.nan
