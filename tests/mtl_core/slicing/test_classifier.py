from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import DictDataLoader, DictDataset, Scorer
from mtl_core.slicing import SFApplier, SliceAwareClassifier, slicing_function

NUMBERS = [3, 43, 12, 9, 3]


@slicing_function()
def f(x: Any) -> bool:
    return x.num > 42


@slicing_function()
def g(x: Any) -> bool:
    return x.num > 10


MEMBERSHIPS = SFApplier([f, g]).apply([SimpleNamespace(num=n) for n in NUMBERS], progress_bar=False)


def classifier(**kwargs: Any) -> SliceAwareClassifier:
    trunk = nn.Sequential(nn.Linear(2, 10), nn.ReLU())
    return SliceAwareClassifier(trunk, 10, ["f", "g"], "test_data", "test_task", device="cpu", **kwargs)


def dataset(task: str = "test_task", labels: tuple[int, ...] = (1, 0, 1, 0, 1)) -> DictDataset:
    points = torch.tensor([(x, x) for x in NUMBERS], dtype=torch.float32)
    return DictDataset("test_dataset", "valid", {"test_data": points}, {task: torch.tensor(labels)})


def loader_for(model: SliceAwareClassifier, **kwargs: Any) -> DictDataLoader:
    return model.make_slice_dataloader(dataset(**kwargs), MEMBERSHIPS, batch_size=4)


def test_the_model_has_a_task_for_each_slice_and_the_seeds_defaults() -> None:
    model = classifier()
    assert sorted(model.task_names) == [
        "test_task",
        *(f"test_task_slice:{name}_{kind}" for name in ("base", "f", "g") for kind in ("ind", "pred")),
    ]
    assert model.name == "test_task_sliceaware_classifier"
    assert classifier(name="mine").name == "mine"
    assert model.slice_names == ["f", "g"]
    assert list(model.base_task.scorer.metrics) == ["accuracy", "f1"]
    assert list(model.base_task.module_pool) == ["base_architecture", "prediction_head"]
    default = SliceAwareClassifier(nn.Linear(2, 3), 3, [])
    assert default.base_task.name == "task"
    assert default.base_task.fields == ["input_data"]


def test_a_loader_has_the_labels_of_all_slices() -> None:
    model = classifier()
    loader = loader_for(model)
    assert set(loader.dataset.Y_dict) == set(model.task_names)
    assert loader.batch_size == 4
    with pytest.raises(ValueError, match="labels missing"):
        loader_for(model, task="bad_labels")


def test_slices_are_scored_by_the_tasks_own_predictions() -> None:
    model = classifier(scorer=Scorer(metrics=["accuracy", "f1"]))
    loader = loader_for(model)
    scores = model.score([loader])
    assert {key.partition("/")[0] for key in scores} == set(model.task_names)
    by_slice = model.score_slices([loader])
    assert {key.partition("/")[0] for key in by_slice} == {
        "test_task",
        "test_task_slice:base_pred",
        "test_task_slice:f_pred",
        "test_task_slice:g_pred",
    }
    preds = model.infer(loader.dataset.X_dict, ["test_task"])["test_task"]["preds"]
    right = preds == loader.dataset.Y_dict["test_task"]
    key = "test_task{}/test_dataset/valid/accuracy"
    assert by_slice[key.format("")] == pytest.approx(right.float().mean().item())
    assert by_slice[key.format("_slice:base_pred")] == by_slice[key.format("")]
    for name in ("f", "g"):
        members = torch.from_numpy(MEMBERSHIPS[name] == 1)
        expected = right[members].float().mean().item()
        assert by_slice[key.format(f"_slice:{name}_pred")] == pytest.approx(expected)


def test_scores_by_slice_come_as_a_frame_too() -> None:
    model = classifier()
    frame = model.score_slices([loader_for(model)], as_dataframe=True)
    assert list(frame.columns) == ["label", "dataset", "split", "metric", "score"]
    assert "test_task_slice:f_pred" in set(frame["label"])


def test_more_than_two_classes_are_learned_and_scored_too() -> None:
    model = classifier(num_classes=3)
    loader = loader_for(model, labels=(2, 0, 1, -1, 2))
    assert list(model.base_task.scorer.metrics) == ["accuracy", "f1_macro"]
    losses, counts = model.calculate_loss(*next(iter(loader)))
    assert counts["test_task"] == counts["test_task_slice:base_pred"] == 3
    assert all(loss.isfinite() for loss in losses.values())
    probs = model.infer(loader.dataset.X_dict, ["test_task"])["test_task"]["probs"]
    assert probs.shape == (5, 3)
    assert "test_task_slice:f_pred/test_dataset/valid/f1_macro" in model.score_slices([loader])
