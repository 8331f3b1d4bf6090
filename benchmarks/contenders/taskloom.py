"""Taskloom's own trainer, on a trunk that it recognises or on one that it cannot look into.

Run from the repository's root: ``python -m benchmarks.contenders.taskloom recognised W1 1 0``, or ``any-graph``.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.contenders.layers import layers_of, linear_of, trunk_of
from benchmarks.measuring import Arguments, report
from benchmarks.workloads import GRAD_CLIP, Weights, Workload
from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Task, Trainer


class OpaqueTrunk(nn.Module):
    """The same layers in a module whose type says nothing of what it computes."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the last layer's answers to values ``[n, d]``."""
        return self.layers(values)


class Taskloom:
    """Model, loaders and trainer of a workload."""

    def __init__(
        self,
        workload: Workload,
        opaque: bool = False,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        layers = trunk_of(workload.initial.trunk)
        self._trunk = OpaqueTrunk(layers) if opaque else layers
        self._heads = {task: linear_of(layer) for task, layer in workload.initial.heads.items()}
        fields = {task: split.field for split in workload.splits for task in split.labels}
        tasks = [
            Task(
                name,
                {"trunk": self._trunk, f"{name}_head": head},
                [Operation("trunk", [("_input_", fields[name])]), Operation(f"{name}_head", ["trunk"])],
            )
            for name, head in self._heads.items()
        ]
        self._model = MultitaskClassifier(tasks, device=device)
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
            precision=precision,
            progress_bar=False,
        )

    def fit(self) -> None:
        """Train from the initial weights."""
        self._trainer.fit(
            self._model, [loader for loader in self._loaders if loader.dataset.split == "train"]
        )

    def score(self) -> dict[str, float]:
        """Return the accuracy on each split by ``task/split``."""
        return {
            f"{score.task}/{score.split}": score.value
            for score in self._model.evaluate(self._loaders)
            if score.metric == "accuracy"
        }

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        return Weights(
            layers_of(self._trunk), {task: layers_of(head)[0] for task, head in self._heads.items()}
        )


if __name__ == "__main__":
    read = Arguments.read()
    report(lambda workload: Taskloom(workload, opaque=read.own == ["any-graph"]), read)
