"""Checkpoints: the model as it was at some evaluations, and at its best by each watched metric."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from mtl_core.errors import TaskloomError
from mtl_core.files import read_tensors, written_whole
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.training.config import CheckpointerConfig
from mtl_core.training.watched_metrics import WatchedMetric

# Below what file systems take, in bytes, with room for what stands before and after.
_LONGEST_NAME = 160


class Checkpointer:
    """Saves a model while it trains, keeps the best by each watched metric and loads the best one back.

    Files are ``checkpoint_{iteration}.safetensors`` and ``best_model_{metric}.safetensors``, with ``_`` for ``/`` in
    the metric; each is there whole or not at all.

    Args:
        counter_unit: What iterations count: ``"epochs"``, ``"batches"`` or ``"points"``, as for the log manager.
        evaluation_freq: Units between two evaluations, above 0.
        **kwargs: The fields of :class:`~mtl_core.training.config.CheckpointerConfig`.

    Attributes:
        config: The settings.
        checkpoint_metric: The metric that the model is put back to its best by, with its mode.
        checkpoint_task_metrics: All metrics that a best model is kept for, each with its mode.
        checkpoint_freq: Units between two checkpoints.
        checkpoint_condition_met: Whether the runway is over.
        best_metric_dict: The best value so far by metric.

    Raises:
        TaskloomError: If ``evaluation_freq`` is not above 0, or two metrics would share a file.
        pydantic.ValidationError: If a setting is unknown or out of range, or a metric has no mode.
    """

    def __init__(self, counter_unit: str, evaluation_freq: float, **kwargs: Any) -> None:
        self.config = CheckpointerConfig(**kwargs)
        self.checkpoint_unit = counter_unit
        self.checkpoint_dir = self.config.checkpoint_dir
        self.checkpoint_clear = self.config.checkpoint_clear
        self.checkpoint_runway = self.config.checkpoint_runway
        self.checkpoint_factor = self.config.checkpoint_factor
        self.checkpoint_condition_met = False
        self.checkpoint_freq = evaluation_freq * self.checkpoint_factor
        if self.checkpoint_freq <= 0:
            raise TaskloomError(f"checkpoint freq must be above 0, not {self.checkpoint_freq}")
        self._metric = WatchedMetric.parse(self.config.checkpoint_metric)
        further = map(WatchedMetric.parse, self.config.checkpoint_task_metrics or [])
        self._watched = {watched.name: watched for watched in (*further, self._metric)}
        self.checkpoint_metric = {self._metric.name: self._metric.mode}
        self.checkpoint_task_metrics = {name: watched.mode for name, watched in self._watched.items()}
        self._best_paths = self._paths()
        self.best_metric_dict: dict[str, float] = {}
        self._saved: list[Path] = []
        Path(self.checkpoint_dir).mkdir(parents=True, exist_ok=True)

    def checkpoint(
        self, iteration: float, model: MultitaskClassifier, metric_dict: Mapping[str, float]
    ) -> None:
        """Save the model, unless on the runway; and again as the best by every metric that it is the best by.

        A value that is NaN, or the mean of some that are, is never the best.

        Args:
            iteration: Units since the start of training.
            model: The model as it is now.
            metric_dict: Its metrics, by ``task/dataset/split/metric``.

        Raises:
            TaskloomError: If a watched metric is not among them; names those that are.
        """
        if iteration < self.checkpoint_runway:
            return
        self.checkpoint_condition_met = True
        values = {name: watched.value(metric_dict) for name, watched in self._watched.items()}
        path = Path(self.checkpoint_dir) / f"checkpoint_{iteration}.safetensors"
        model.save(path)
        # Not only at the end: a long training would fill the disk.
        self.clear()
        self._saved.append(path)
        for name, value in values.items():
            best = self.best_metric_dict.get(name)
            if value is not None and self._watched[name].better(value, best):
                with written_whole(self._best_paths[name]) as scratch:
                    shutil.copyfile(path, scratch)
                self.best_metric_dict[name] = value

    def clear(self) -> None:
        """Remove the checkpoints that were saved, but not the best models; only if ``checkpoint_clear`` says so."""
        if self.checkpoint_clear:
            for path in self._saved:
                path.unlink(missing_ok=True)
            self._saved.clear()

    def load_best_model(self, model: MultitaskClassifier) -> MultitaskClassifier:
        """Put the model back to its best by ``checkpoint_metric``, and return it.

        Where none was saved, because training ended on the runway or the metric was NaN throughout, the model stays
        as it is.
        """
        if self._metric.name in self.best_metric_dict:
            model.load(self._best_paths[self._metric.name])
        return model

    def state_dict(self) -> dict[str, Any]:
        """Return the best values and models so far, and which checkpoints are there."""
        return {
            "condition_met": self.checkpoint_condition_met,
            "values": self.best_metric_dict,
            "saved": [path.name for path in self._saved],
            "best": {name: read_tensors(self._best_paths[name])[0] for name in self.best_metric_dict},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned; the files of the best models are written again."""
        self.checkpoint_condition_met = state["condition_met"]
        self.best_metric_dict = dict(state["values"])
        self._saved = [Path(self.checkpoint_dir) / name for name in state["saved"]]
        for name, tensors in state["best"].items():
            with written_whole(self._best_paths[name]) as scratch:
                scratch.write_bytes(safetensors.torch.save(tensors))

    def _paths(self) -> dict[str, Path]:
        paths = {name: Path(self.checkpoint_dir) / _file_name(name) for name in self._watched}
        owners: dict[Path, str] = {}
        for name, path in paths.items():
            if (other := owners.setdefault(path, name)) != name:
                raise TaskloomError(f"the best models by '{other}' and by '{name}' would both be {path.name}")
        return paths


def _file_name(metric: str) -> str:
    flat = metric.replace("/", "_")
    if len(flat.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(metric.encode()).hexdigest()[:16]
        flat = f"{flat.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"
    return f"best_model_{flat}.safetensors"
