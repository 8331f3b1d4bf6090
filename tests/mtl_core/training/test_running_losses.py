from __future__ import annotations

import math

import torch

from mtl_core import DictDataLoader, DictDataset
from mtl_core.training.running_losses import RunningLosses, labelled_pairs


def test_losses_are_averaged_by_labelled_example_until_the_reset() -> None:
    losses = RunningLosses("train")
    losses.add_all([("a", "d")], [1.0], [1])
    losses.add_all([("a", "d")], [2.0], [3])
    losses.add_all([("b", "d")], [5.0], [4])
    expected = {"a/d/train/loss": 7 / 4, "b/d/train/loss": 5.0, "model/all/train/loss": 27 / 8}
    assert losses.metrics() == expected
    losses.reset()
    assert losses.metrics() == {}


def test_an_expected_loss_without_an_example_is_undefined() -> None:
    losses = RunningLosses("train", [("a", "d"), ("b", "d")])
    losses.add_all([("a", "d")], [1.0], [1])
    metrics = losses.metrics()
    assert metrics["a/d/train/loss"] == metrics["model/all/train/loss"] == 1.0
    assert math.isnan(metrics["b/d/train/loss"])
    losses.reset()
    assert set(losses.metrics()) == set(metrics)
    assert all(map(math.isnan, losses.metrics().values()))


def test_pairs_are_those_with_a_label_of_a_known_task() -> None:
    labels = {"a": torch.tensor([-1, 1]), "b": torch.tensor([-1, -1]), "c": torch.tensor([0, 0])}
    loader = DictDataLoader(DictDataset("d", "train", {"x": torch.zeros(2, 1)}, labels))
    assert labelled_pairs([loader], ["a", "b"]) == [("a", "d")]
