"""Which loaders are trained on, and which are scored while training."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_core.data import DictDataLoader
from mtl_core.errors import TaskloomError
from mtl_core.training.config import TrainerConfig


def train_and_valid(
    config: TrainerConfig, loaders: Sequence[DictDataLoader]
) -> tuple[list[DictDataLoader], list[DictDataLoader]]:
    """Return the loaders of the train split and those of the valid split.

    Raises:
        TaskloomError: If a loader's split is none that the settings know, or none has a batch to train on.
    """
    known = [config.train_split, config.valid_split, config.test_split]
    for loader in loaders:
        if loader.dataset.split not in known:
            name, split = loader.dataset.name, loader.dataset.split
            raise TaskloomError(f"dataset '{name}' has split '{split}', which is none of {known}")
    train = [loader for loader in loaders if loader.dataset.split == config.train_split]
    if not any(len(loader) for loader in train):
        raise TaskloomError(f"there is no batch of the train split '{config.train_split}'")
    return train, [loader for loader in loaders if loader.dataset.split == config.valid_split]
