"""From a model and its data to a verdict: the shared model's training, each task's twin, and how the two compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mtl_core.data import DictDataLoader, is_labelled
from mtl_core.errors import NonFiniteLossError, TaskloomError
from mtl_core.losses.ranking import RankNet
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.weights import module_weights
from mtl_core.sharing.bootstrap import Bootstrap, Predicted, judged_metrics, paired_gains
from mtl_core.sharing.groups import Affinities
from mtl_core.sharing.stages import SharedStage, Stages, TwinStage
from mtl_core.sharing.twins import (
    build_twin,
    count_steps,
    families,
    judging_loaders,
    loaders_of,
    twin_config,
)
from mtl_core.sharing.verdict import Comparison, SharingVerdict
from mtl_core.training.config import TrainerConfig
from mtl_core.training.progress import FitListener
from mtl_core.training.snapshots import Snapshots
from mtl_core.training.splits import train_and_valid
from mtl_core.training.trainer import Trainer


def judge_sharing(
    model: MultitaskClassifier,
    dataloaders: Sequence[DictDataLoader],
    bootstrap: Bootstrap | None = None,
    listener: FitListener | None = None,
    **settings: Any,
) -> SharingVerdict:
    """Train a model, and each of its tasks alone, and say what sharing gained or lost for each task.

    Args:
        model: What is trained, in place.
        dataloaders: Loaders of any splits: of the train split to train on, of the test split to judge on, or of the
            validation split for a task that no test split labels.
        bootstrap: How intervals are made; default: as :class:`~mtl_core.sharing.Bootstrap` has it.
        listener: Hears of all trainings as of one.
        **settings: The fields of :class:`~mtl_core.TrainerConfig`.

    Returns:
        The verdict. The model is trained as :meth:`~mtl_core.Trainer.fit` would have left it.

    Raises:
        pydantic.ValidationError: If a setting is unknown or out of range.
        TaskloomError: As :class:`SharingStudy` and :meth:`~mtl_core.Trainer.fit`.
        NonFiniteLossError: As :meth:`~mtl_core.Trainer.fit`, of the shared model.

    Source: Standley et al., Which Tasks Should Be Learned Together in Multi-task Learning?, 2020,
    https://arxiv.org/abs/1905.07553, for shared models judged against single-task ones.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mtl_core import DictDataset, Operation, Task
        >>> trunk, first = nn.Linear(2, 4), Operation("trunk", [("_input_", "x")])
        >>> tasks = [
        ...     Task(t, {"trunk": trunk, t: nn.Linear(4, 2)}, [first, Operation(t, ["trunk"])]) for t in "ab"
        ... ]
        >>> x = torch.randn(64, 2)
        >>> labels = {"a": (x[:, 0] > 0).long(), "b": (x[:, 1] > 0).long()}
        >>> loaders = [DictDataLoader(DictDataset("d", split, {"x": x}, labels)) for split in ("train", "test")]
        >>> verdict = judge_sharing(MultitaskClassifier(tasks, device=-1), loaders, seed=1, progress_bar=False)
        >>> [task.task for task in verdict.tasks]
        ['a', 'b']
    """
    study = SharingStudy(model, TrainerConfig(**settings), dataloaders, bootstrap, listener)
    trainer = Trainer(**study.config.model_dump())
    trainer.fit(model, dataloaders, study.listener)
    return study.verdict(trainer.affinities)


@dataclass(frozen=True)
class _Trial:
    """What a twin is trained and judged on."""

    family: list[str]
    loaders: list[DictDataLoader]
    judging: list[DictDataLoader]
    n_steps: int


class SharingStudy:
    """A verdict in two steps, for callers that train the shared model themselves.

    It is made before the training, as the twins start from the weights that the model has then; one twin at a time is
    in memory. Between the two steps the model is trained with ``config`` and ``listener``.

    Args:
        model: The shared model, not trained yet.
        config: The settings of its training.
        loaders: All that it is trained, watched and judged on.
        bootstrap: How intervals are made; default: as :class:`~mtl_core.sharing.Bootstrap` has it.
        listener: Hears of all trainings as of one; a twin's metrics are called ``twin:metric``. Default: nobody.
        folder: Where the twins' checkpoints go, each into a folder that is removed at its end; default: the system's
            folder for temporary files.
        snapshots: Gives each twin's training, by ``twin:`` and its task, where it is saved as it stands; default: they
            are not.

    Attributes:
        config: The settings to train the shared model with: those given, and with the tasks' gradients compared.
        listener: Who is to hear of that training.

    Raises:
        TaskloomError: If the model has fewer than two tasks to compare, or there is nothing to train or to judge on.
    """

    def __init__(
        self,
        model: MultitaskClassifier,
        config: TrainerConfig,
        loaders: Sequence[DictDataLoader],
        bootstrap: Bootstrap | None = None,
        listener: FitListener | None = None,
        folder: str | None = None,
        snapshots: Callable[[str], Snapshots] | None = None,
    ) -> None:
        self.config = config.model_copy(update={"diagnosis": True})
        self._model = model
        self._weights = module_weights(model)
        self._bootstrap = bootstrap or Bootstrap()
        self._folder = folder
        self._snapshots = snapshots
        self._families = families(model.task_names)
        self._unjudged: dict[str, str] = {}
        self._trials: dict[str, _Trial] = {}
        # What is wrong with the loaders is better told as it will be by the training.
        train_and_valid(config, loaders)
        if len(self._families) < 2:
            raise TaskloomError(
                f"model '{model.name}' has one task: sharing cannot be judged without another"
            )
        for task, family in self._families.items():
            trial = self._trial(task, family, loaders)
            if isinstance(trial, str):
                self._unjudged[task] = trial
            else:
                self._trials[task] = trial
        if not self._trials:
            task, reason = next(iter(self._unjudged.items()))
            raise TaskloomError(f"sharing cannot be judged for any task; for '{task}' because {reason}")
        n_steps = count_steps(config, loaders)
        total = n_steps + sum(trial.n_steps for trial in self._trials.values())
        self._shared_steps = n_steps
        self._stages = Stages(listener or FitListener(), config.n_epochs, total)
        self.listener: FitListener = SharedStage(self._stages)

    def verdict(self, affinities: Affinities) -> SharingVerdict:
        """Train the twins, compare them with the shared model, which is trained by now, and say what comes of it.

        Args:
            affinities: The trainer's, after the shared model's training.

        Raises:
            TaskloomError: As :meth:`~mtl_core.Trainer.fit` of a twin, but for a loss that is not finite: the task is
                not judged then.
        """
        self._stages.pass_by(self._shared_steps)
        comparisons: dict[str, list[Comparison]] = {}
        unjudged = dict(self._unjudged)
        for task, trial in self._trials.items():
            try:
                rows = self._comparisons(task, trial)
            except NonFiniteLossError as error:
                unjudged[task] = f"its twin's training failed: {error}"
                continue
            finally:
                self._stages.pass_by(trial.n_steps)
            if rows:
                comparisons[task] = rows
            else:
                unjudged[task] = "none of its metrics is defined on the labels there are"
        return SharingVerdict.of(
            list(self._families),
            comparisons,
            {task: unjudged[task] for task in self._families if task in unjudged},
            self._between_families(affinities),
            self._bootstrap.resamples,
            self._bootstrap.confidence,
        )

    def _trial(self, task: str, family: list[str], loaders: Sequence[DictDataLoader]) -> _Trial | str:
        """Return what to try, or why not to."""
        config = self.config
        own = loaders_of(family, loaders)
        if not any(loader.dataset.split == config.train_split and len(loader) for loader in own):
            return f"it has no label in the split '{config.train_split}'"
        judging = judging_loaders(task, own, config)
        if not judging:
            return f"it has no label in the splits '{config.test_split}' and '{config.valid_split}'"
        if not judged_metrics(self._model.tasks[task].scorer):
            return "none of its metrics says which way is better"
        if not self._learns(family):
            return "all of its modules stay as they are"
        return _Trial(family, own, judging, count_steps(config, own))

    def _learns(self, family: Sequence[str]) -> bool:
        """Say whether some tasks have a parameter that the settings do not leave as it is."""
        return any(
            parameter.requires_grad
            for task in family
            for name, module in self._model.tasks[task].module_pool.items()
            if name not in self.config.frozen_modules
            for parameter in module.parameters()
        )

    def _comparisons(self, task: str, trial: _Trial) -> list[Comparison]:
        listener = TwinStage(self._stages, task)
        twin = build_twin(self._model, trial.family, self._weights)
        listener.on_log(f"training {trial.n_steps} batches")
        with TemporaryDirectory(dir=self._folder) as folder:
            config = twin_config(self.config, twin, trial.loaders, folder)
            snapshots = self._snapshots(f"twin:{task}") if self._snapshots else None
            Trainer(twin.name, **config.model_dump()).fit(twin, trial.loaders, listener, snapshots)
        rows = [row for loader in trial.judging for row in self._compared(task, twin, loader)]
        order = list(self._model.tasks[task].scorer.metrics)
        return sorted(rows, key=lambda row: order.index(row.metric))

    def _compared(self, task: str, twin: MultitaskClassifier, loader: DictDataLoader) -> Iterable[Comparison]:
        golds, (shared, single) = _predicted(task, (self._model, twin), loader)
        judge = self._model.tasks[task]
        gains = paired_gains(
            judge.scorer, golds, shared, single, self._bootstrap, isinstance(judge.loss_func, RankNet)
        )
        return [Comparison.of(loader.dataset.name, loader.dataset.split, gain) for gain in gains]

    def _between_families(self, affinities: Affinities) -> dict[tuple[str, str], float]:
        """Return the affinities of tasks, those of their slices' tasks among them, averaged over each two tasks."""
        owner = {name: task for task, family in self._families.items() for name in family}
        found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for (a, b), value in affinities.items():
            if owner[a] != owner[b]:
                found[min(owner[a], owner[b]), max(owner[a], owner[b])].append(value)
        return {pair: fmean(values) for pair, values in found.items()}


def _predicted(
    task: str, models: Sequence[MultitaskClassifier], loader: DictDataLoader
) -> tuple[np.ndarray[Any, Any], list[Predicted]]:
    """Return a split's labels and the models' answers, in one pass: a loader may give another order in the next."""
    golds: list[Any] = []
    answers: list[list[tuple[Any, Any]]] = [[] for _ in models]
    for X_dict, Y_dict in loader:
        labelled = is_labelled(Y_dict[task]).cpu()
        if not bool(labelled.any()):
            continue
        golds.append(Y_dict[task].cpu()[labelled].numpy())
        for model, found in zip(models, answers, strict=True):
            answer = model.infer(X_dict, [task], ("probs", "preds"))[task]
            found.append((answer["preds"][labelled].numpy(), answer["probs"][labelled].numpy()))
    return np.concatenate(golds), [
        Predicted(
            np.concatenate([preds for preds, _ in found]), np.concatenate([probs for _, probs in found])
        )
        for found in answers
    ]
