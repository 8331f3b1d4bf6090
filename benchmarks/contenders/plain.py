"""A plain PyTorch loop as one would write it by hand: ``TensorDataset``, ``DataLoader``, ``torch.optim.Adam``.

Run from the repository's root: ``python -m benchmarks.contenders.plain W1 1 0``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders.layers import layers_of, linear_of, trunk_of
from benchmarks.measuring import Arguments, report
from benchmarks.workloads import GRAD_CLIP, Split, Weights, Workload


class Plain:
    """Model, loaders and optimizer of a workload."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._trunk = trunk_of(workload.initial.trunk)
        self._heads = nn.ModuleDict(
            {task: linear_of(layer) for task, layer in workload.initial.heads.items()}
        )
        self._loaders = [(split, _loader(split, workload.batch_size)) for split in workload.splits]

    def fit(self) -> None:
        """Train from the initial weights."""
        torch.manual_seed(self._workload.seed)
        model = nn.ModuleList([self._trunk, self._heads])
        optimizer = torch.optim.Adam(model.parameters(), lr=self._workload.lr)
        loaders = [(list(split.labels), loader) for split, loader in self._loaders if split.split == "train"]
        turns = [i for i, (_, loader) in enumerate(loaders) for _ in range(len(loader))]
        for _ in range(self._workload.n_epochs):
            batches = [iter(loader) for _, loader in loaders]
            for turn in torch.randperm(len(turns)).tolist():
                which = turns[turn]
                values, *labels = next(batches[which])
                hidden = self._trunk(values)
                loss = torch.stack(
                    [
                        F.cross_entropy(self._heads[task](hidden), of_task)
                        for task, of_task in zip(loaders[which][0], labels, strict=True)
                    ]
                ).sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
                optimizer.step()

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Return the accuracy on each split by ``task/split``."""
        accuracies: dict[str, float] = {}
        for split, loader in self._loaders:
            correct = dict.fromkeys(split.labels, 0)
            for values, *labels in loader:
                hidden = self._trunk(values)
                for task, of_task in zip(split.labels, labels, strict=True):
                    correct[task] += int((self._heads[task](hidden).argmax(dim=1) == of_task).sum())
            for task, n in correct.items():
                accuracies[f"{task}/{split.split}"] = n / len(split.values)
        return accuracies

    def weights(self) -> Weights:
        """Return the weights as they are now."""
        return Weights(
            layers_of(self._trunk), {task: layers_of(head)[0] for task, head in self._heads.items()}
        )


def _loader(split: Split, batch_size: int) -> DataLoader[tuple[torch.Tensor, ...]]:
    tensors = (torch.from_numpy(array) for array in (split.values, *split.labels.values()))
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=split.split == "train")


if __name__ == "__main__":
    report(Plain, Arguments.read())
