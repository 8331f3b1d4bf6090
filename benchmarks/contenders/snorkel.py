"""Snorkel's multi-task trainer, from the package of that name, which has an environment of its own.

Run from the repository's root: ``.venv-bench/bin/python -m benchmarks.contenders.snorkel W1 1 0``.
"""

from __future__ import annotations

import torch
from snorkel.classification import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    Task,
    Trainer,
)
from torch import nn

from benchmarks.contenders.layers import layers_of, linear_of, trunk_of
from benchmarks.measuring import Arguments, report
from benchmarks.workloads import GRAD_CLIP, Weights, Workload


class Snorkel:
    """Model, loaders and trainer of a workload."""

    def __init__(self, workload: Workload) -> None:
        self._trunk = trunk_of(workload.initial.trunk)
        self._heads = {task: linear_of(layer) for task, layer in workload.initial.heads.items()}
        fields = {task: split.field for split in workload.splits for task in split.labels}
        tasks = [
            Task(
                name,
                nn.ModuleDict({"trunk": self._trunk, f"{name}_head": head}),
                [Operation("trunk", [("_input_", fields[name])]), Operation(f"{name}_head", ["trunk"])],
            )
            for name, head in self._heads.items()
        ]
        self._model = MultitaskClassifier(tasks, device=-1)
        self._loaders = [
            DictDataLoader(
                DictDataset(
                    split.dataset,
                    split.split,
                    {split.field: torch.from_numpy(split.values)},
                    {task: torch.from_numpy(labels) for task, labels in split.labels.items()},
                ),
                batch_size=workload.batch_size,
                shuffle=split.split == "train",
            )
            for split in workload.splits
        ]
        self._trainer = Trainer(
            seed=workload.seed,
            n_epochs=workload.n_epochs,
            lr=workload.lr,
            grad_clip=GRAD_CLIP,
            progress_bar=False,
        )

    def fit(self) -> None:
        """Train from the initial weights."""
        self._trainer.fit(
            self._model, [loader for loader in self._loaders if loader.dataset.split == "train"]
        )

    def score(self) -> dict[str, float]:
        """Return the accuracy on each split by ``task/split``."""
        accuracies: dict[str, float] = {}
        for key, value in self._model.score(self._loaders).items():
            task, _, split, _ = key.split("/")
            accuracies[f"{task}/{split}"] = float(value)
        return accuracies

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        return Weights(
            layers_of(self._trunk), {task: layers_of(head)[0] for task, head in self._heads.items()}
        )


if __name__ == "__main__":
    report(Snorkel, Arguments.read())
