"""Early stopping of each task by itself, while the others go on training what they share with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from mtl_core.errors import TaskloomError
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.averaging import WeightAverage
from mtl_core.training.config import TrainerConfig
from mtl_core.training.distillation import Teacher
from mtl_core.training.freezing import FrozenModules
from mtl_core.training.patience import Evaluation, Patience, best_evaluations, evaluations_of
from mtl_core.training.watched_metrics import WatchedMetric

# How much the answers of a task that has peaked count beside the losses of others. In trials on the problem of
# examples/early_stopping.py they drifted at a weight of 1, and at 4 the others lost less than their scores' noise.
_HOLD = 4.0


class TaskStopper:
    """Ends each task's training when its own metric has not improved for ``patience`` evaluations.

    When a task has peaked, the model goes back to the evaluation at which the task was best. Its own loss counts no
    more, the modules that no task still in training uses stay as they are, and what it shares with others trains on
    for them, held by distillation to what the task's path answers there. The others count their evaluations from
    there. When all have peaked, training ends, with the evaluation since the last such step whose mean over the
    tasks' metrics is best.

    Going back costs the others up to ``patience`` evaluations of training. Shared modules that were left as they were
    did not find the way back to the task's best answers as well, in trials with ``examples/early_stopping.py``.

    Args:
        config: The trainer's settings.
        model: The model.
        task_names: The tasks that are trained. One whose path has no parameter that wants gradients is not watched.
        frozen: Freezes modules.
        average: The running mean of the weights, if that is what is evaluated.

    Attributes:
        ended: Whether training is to end.
        peaked: The tasks that have peaked.

    Raises:
        TaskloomError: If the settings name metrics, but none of a task that is watched.

    Source:
        Li and Hoiem, Learning without Forgetting, 2016, for holding a path to its own former answers.
    """

    def __init__(
        self,
        config: TrainerConfig,
        model: MultitaskClassifier,
        task_names: Iterable[str],
        frozen: FrozenModules,
        average: WeightAverage | None = None,
    ) -> None:
        settings = config.early_stopping_config
        metric = WatchedMetric.parse(settings.metric or f"*/*/{config.valid_split}/loss:min")
        watched = [name for name in task_names if _is_trained(model, name)]
        self.ended = False
        self.peaked: Collection[str] = ()
        self._model = model
        self._frozen = frozen
        self._average = average
        self._patience = {name: Patience(_metric_of(metric, name), settings) for name in watched}
        # The best is to come back, by however little it is the best.
        self._overall = Patience(metric, settings.model_copy(update={"min_delta": 0.0}))
        self._teachers: list[Teacher] = []
        self._evaluations = 0

    def hear(self, metrics: Mapping[str, float]) -> None:
        """Hear of an evaluation."""
        self._evaluations += 1
        values = {name: patience.metric.value(metrics) for name, patience in self._patience.items()}
        evaluation = Evaluation(self._evaluations, self._model, values)
        for name in self._in_training():
            self._patience[name].hear(evaluation, values[name])
        self._overall.hear(evaluation, evaluation.mean)

    def act(self) -> list[str]:
        """Go back to the best evaluation of the tasks that have peaked now, and hold the model to them."""
        done = [name for name in self._in_training() if self._patience[name].is_over]
        if not done:
            return []
        self.peaked = (*self.peaked, *done)
        lines = [f"task '{name}' has peaked: {self._patience[name]}" for name in done]
        # Tasks that peak together have their best evaluation in common: that many evaluations ago.
        best = self._patience[done[0]].best
        others = self._in_training()
        if best is None or not others:
            self.ended = True
            return lines
        best.put_back()
        if self._average is not None:
            self._average.restart(self._model.module_pool)
        kept = self._freeze_all_but(others)
        self._teachers.append(Teacher(self._model, done))
        for name in others:
            self._patience[name].start_at(best, best.values[name])
        self._overall.start_at(best, best.mean)
        return [*lines, f"back to evaluation {best.number}; modules {kept} stay as they are there"]

    def losses(self, X_dict: Mapping[str, Any], labelled: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return how far the answers of the tasks that have peaked are from their best ones, on a batch."""
        own = list(labelled)
        return {
            task: _HOLD * loss
            for teacher in self._teachers
            for task, loss in teacher.losses(X_dict, own).items()
        }

    def finish(self) -> list[str]:
        """Put the model back to the evaluation with the best mean since it last went back."""
        best = self._overall.best
        if best is None:
            return []
        best.put_back()
        return [f"early stopping ends with the best weights for all tasks: {self._overall}"]

    def state_dict(self) -> dict[str, Any]:
        """Return the best evaluations, what was waited for each task, and what peaked and is held since."""
        patiences = [*self._patience.values(), self._overall]
        return {
            "evaluations": self._evaluations,
            "ended": self.ended,
            "peaked": list(self.peaked),
            "best": best_evaluations(patiences),
            "patience": {name: patience.state_dict() for name, patience in self._patience.items()},
            "overall": self._overall.state_dict(),
            "frozen": self._frozen.names,
            "teachers": [teacher.state_dict() for teacher in self._teachers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._evaluations, self.ended, self.peaked = state["evaluations"], state["ended"], state["peaked"]
        evaluations = evaluations_of(self._model, state["best"])
        for name, patience in self._patience.items():
            patience.load_state_dict(state["patience"][name], evaluations)
        self._overall.load_state_dict(state["overall"], evaluations)
        self._frozen.freeze(name for name in state["frozen"] if name not in self._frozen.names)
        self._teachers = [Teacher.of_state(self._model, teacher) for teacher in state["teachers"]]

    def _in_training(self) -> list[str]:
        return [name for name in self._patience if name not in self.peaked]

    def _freeze_all_but(self, task_names: Iterable[str]) -> list[str]:
        """Freeze what the tasks do not use of the modules of those that have peaked, and return its names."""
        unused = self._model.modules_apart(self.peaked, task_names)
        kept = sorted(set(unused) - set(self._frozen.names))
        self._frozen.freeze(kept)
        return kept


def _is_trained(model: MultitaskClassifier, task_name: str) -> bool:
    return any(
        parameter.requires_grad
        for name in model.modules_of(task_name)
        for parameter in model.module_pool[name].parameters()
    )


def _metric_of(metric: WatchedMetric, task_name: str) -> WatchedMetric:
    own = metric.for_task(task_name)
    if own is None:
        raise TaskloomError(
            f"early_stopping_config: '{metric}' names no metric of task '{task_name}', which per_task needs;"
            " a '*' in the place of the task stands for each"
        )
    return own
