"""Several trainings, one after the other, heard as one."""

from __future__ import annotations

from mtl_core.training.progress import FitListener, Progress


class Stages:
    """Tells a listener of a shared model's training and of its twins' as of one long training.

    Args:
        listener: Who hears.
        n_epochs: Epochs of each training.
        n_steps: Batches of all trainings together.
    """

    def __init__(self, listener: FitListener, n_epochs: int, n_steps: int) -> None:
        self.listener = listener
        self.n_epochs = n_epochs
        self.n_steps = n_steps
        self._steps_before = self._points_before = self._points = 0

    def whole(self, progress: Progress, epoch: int) -> Progress:
        """Return how far all trainings together have come, at some batch of the present one."""
        self._points = self._points_before + progress.points
        return Progress(epoch, self.n_epochs, self._steps_before + progress.step, self.n_steps, self._points)

    def pass_by(self, n_steps: int) -> None:
        """Count a training as over, of whose batches early stopping may have left some out."""
        self._steps_before += n_steps
        self._points_before = self._points


class SharedStage(FitListener):
    """Hears of the shared model's training, as the first of the stages."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def on_batch(self, progress: Progress) -> None:
        """Pass on how far all trainings have come."""
        self._stages.listener.on_batch(self._stages.whole(progress, progress.epoch))

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Pass on the metrics as they are."""
        self._stages.listener.on_metrics(self._stages.whole(progress, progress.epoch), metrics)

    def wants_stop(self) -> bool:
        """Pass on the question."""
        return self._stages.listener.wants_stop()

    def on_log(self, message: str) -> None:
        """Pass on the message as it is."""
        self._stages.listener.on_log(message)


class TwinStage(FitListener):
    """Hears of a twin's training: ``task/dataset/split/metric`` is passed on as ``task/dataset/split/twin:metric``.

    What a training logs of all data sets together is left out, as a twin has one task.
    """

    def __init__(self, stages: Stages, task: str) -> None:
        self._stages = stages
        self._task = task

    def on_batch(self, progress: Progress) -> None:
        """Pass on how far all trainings have come; the shared model's epochs are over."""
        self._stages.listener.on_batch(self._stages.whole(progress, self._stages.n_epochs))

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Pass on what concerns single data sets, as the twin's."""
        found: dict[str, float] = {}
        for key, value in metrics.items():
            where, _, metric = key.rpartition("/")
            if where.split("/")[1] != "all":
                found[f"{where}/twin:{metric}"] = value
        self._stages.listener.on_metrics(self._stages.whole(progress, self._stages.n_epochs), found)

    def wants_stop(self) -> bool:
        """Pass on the question."""
        return self._stages.listener.wants_stop()

    def on_log(self, message: str) -> None:
        """Pass on a message, saying whose it is."""
        self._stages.listener.on_log(f"twin of task '{self._task}': {message}")
