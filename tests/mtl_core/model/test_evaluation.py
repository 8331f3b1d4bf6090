"""Predictions and scores of whole splits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, Operation, Scorer, Task, TaskloomError
from mtl_core.losses import LOSSES

from ..shapes import shape_data, shape_loaders, shape_task


def two_shapes() -> MultitaskClassifier:
    return MultitaskClassifier([shape_task("circle"), shape_task("square")], device="cpu")


def loader_of(labels: dict[str, torch.Tensor], batch_size: int = 4) -> DictDataLoader:
    """Points of the circle's field under whatever label sets."""
    points = shape_data("circle", n=len(next(iter(labels.values())))).X_dict
    return DictDataLoader(DictDataset("d", "test", points, labels), batch_size=batch_size)


def test_scores_are_keyed_by_task_dataset_split_and_metric() -> None:
    scores = two_shapes().score(shape_loaders(splits=("train", "valid")))
    assert list(scores) == [
        f"{shape}_task/{shape}Dataset/{split}/accuracy"
        for shape in ("circle", "square")
        for split in ("train", "valid")
    ]


def test_unlabelled_examples_count_in_no_score() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    points = torch.randn(6, 2)
    preds = model.infer({"circle_data": points}, ["circle_task"])["circle_task"]["preds"]
    labels = torch.where(torch.arange(6) < 3, preds, -1)
    loader = DictDataLoader(
        DictDataset("d", "test", {"circle_data": points}, {"circle_task": labels}), batch_size=2
    )
    (row,) = model.evaluate([loader])
    assert (row.value, row.n) == (1.0, 3)


def test_a_split_without_any_label_has_an_undefined_score() -> None:
    data = shape_data("circle")
    data.Y_dict["circle_task"].fill_(-1)
    (row,) = two_shapes().evaluate([DictDataLoader(data, batch_size=16)])
    assert row.n == 0
    assert row.value != row.value
    assert row.reason == "no example is labelled"


def test_predict_answers_in_the_loaders_order() -> None:
    model, data = two_shapes(), shape_data("circle", n=21)
    results = model.predict(DictDataLoader(data, batch_size=4), return_preds=True)
    expected = model.infer(data.X_dict, ["circle_task"])["circle_task"]
    assert results["golds"]["circle_task"].tolist() == data.Y_dict["circle_task"].tolist()
    assert torch.equal(results["preds"]["circle_task"], expected["preds"])
    torch.testing.assert_close(results["probs"]["circle_task"], expected["probs"])
    assert "preds" not in model.predict(DictDataLoader(data))


def test_scorers_with_own_functions_and_tasks_without_classes() -> None:
    def spread(golds: Any, preds: Any, probs: Any) -> float:
        return float(preds.max() - preds.min())

    task = Task(
        "height",
        {"m": nn.Identity()},
        [Operation("m", [("_input_", "x")])],
        scorer=Scorer(custom_metric_funcs={"spread": spread}),
        output_func=lambda logits: logits,
    )
    loader = DictDataLoader(
        DictDataset("d", "test", {"x": torch.eye(3)}, {"height": torch.tensor([0, 1, 2])})
    )
    assert MultitaskClassifier([task], device="cpu").score([loader]) == {"height/d/test/spread": 2.0}


def test_predictions_are_tensors_of_their_own_dtypes() -> None:
    labels = torch.tensor([1, 0, -1], dtype=torch.int16)
    results = two_shapes().predict(loader_of({"circle_task": labels}), return_preds=True)
    assert {kind: values["circle_task"].dtype for kind, values in results.items()} == {
        "golds": torch.int16,
        "probs": torch.float32,
        "preds": torch.int64,
    }


def test_a_label_set_is_scored_along_the_path_that_it_is_mapped_to() -> None:
    model, labels = two_shapes(), torch.tensor([0, 1, 1, 0, 1])
    loader = loader_of({"circle_task": labels, "other": 1 - labels, "unmapped": labels})
    assert list(model.predict(loader)["golds"]) == ["circle_task"]
    results = model.predict(loader, return_preds=True, remap_labels={"other": "circle_task"})
    assert list(results["probs"]) == ["circle_task", "other"]
    assert torch.equal(results["probs"]["other"], results["probs"]["circle_task"])
    assert torch.equal(results["golds"]["other"], 1 - labels)
    scores = model.score([loader], remap_labels={"other": "circle_task"})
    assert scores["other/d/test/accuracy"] == pytest.approx(1 - scores["circle_task/d/test/accuracy"])
    assert model.score([loader], remap_labels={"circle_task": None}) == {}
    assert model.score([loader], remap_labels={"absent": "circle_task"}).keys() == {
        "circle_task/d/test/accuracy"
    }


def test_a_models_own_mappings_hold_unless_the_argument_says_otherwise() -> None:
    model, labels = two_shapes(), torch.tensor([0, 1, 1])
    loader = loader_of({"circle_task": labels, "a": labels, "b": labels})
    model.remap_labels = {"a": "circle_task", "circle_task": None}
    assert [row.task for row in model.evaluate([loader])] == ["a"]
    rows = model.evaluate(
        [loader], remap_labels={"a": None, "b": "circle_task", "circle_task": "circle_task"}
    )
    assert [row.task for row in rows] == ["circle_task", "b"]
    losses, _ = model.calculate_loss(loader.dataset.X_dict, loader.dataset.Y_dict)
    assert list(losses) == ["circle_task"]


def test_labels_mapped_to_no_task_of_the_model_are_an_error() -> None:
    model = two_shapes()
    with pytest.raises(
        TaskloomError, match=r"labels 'a' are mapped to 'triangle', .* \['circle_task', 'square_task'\]"
    ):
        model.score([loader_of({"a": torch.tensor([1])})], remap_labels={"a": "triangle"})


def test_every_path_is_run_once_a_batch_whatever_is_asked() -> None:
    trunk = nn.Linear(2, 4)
    model = MultitaskClassifier([shape_task("circle", trunk)], device="cpu")
    calls: list[int] = []
    trunk.register_forward_hook(lambda *_: calls.append(1))
    labels = torch.zeros(8, dtype=torch.int64)
    loader = loader_of({"circle_task": labels, "a": labels, "b": labels})
    model.evaluate([loader], remap_labels={"a": "circle_task", "b": "circle_task"}, with_loss=True)
    assert len(calls) == 2
    model.evaluate([loader], remap_labels={"circle_task": None})
    assert len(calls) == 2


@settings(max_examples=20, deadline=None)
@given(labels=st.lists(st.integers(-1, 1), min_size=1, max_size=12), batch_size=st.integers(1, 5))
def test_the_loss_row_is_the_loss_of_a_labelled_example_whatever_the_batches(
    labels: list[int], batch_size: int
) -> None:
    loss = LOSSES.build({"type": "cross_entropy", "weight": [1, 3]})
    model = MultitaskClassifier([shape_task("circle", loss_func=loss)], device="cpu")
    golds = torch.tensor(labels)
    loader = loader_of({"circle_task": golds}, batch_size)
    accuracy, row = model.evaluate([loader], with_loss=True)
    assert (accuracy.metric, row.key, row.n) == (
        "accuracy",
        "circle_task/d/test/loss",
        int((golds != -1).sum()),
    )
    if not row.n:
        assert math.isnan(row.value)
        assert row.reason == "no example is labelled"
        return
    logits = model(loader.dataset.X_dict, ["circle_task"])["circle_head"]
    expected = F.cross_entropy(logits, golds, torch.tensor([1.0, 3.0]), ignore_index=-1)
    assert row.value == pytest.approx(expected.item(), rel=1e-5)
    assert row.reason is None


def test_a_loss_that_sums_is_reported_for_one_labelled_example() -> None:
    labels = torch.tensor([0, 1, -1, 0])
    rows = [
        MultitaskClassifier(
            [shape_task("circle", trunk, head, loss_func=LOSSES.build(spec))], device="cpu"
        ).evaluate([loader_of({"circle_task": labels}, batch_size=3)], with_loss=True)[-1]
        for trunk, head in [(nn.Linear(2, 4), nn.Linear(4, 2))]
        for spec in ("cross_entropy", {"type": "cross_entropy", "reduction": "sum"})
    ]
    assert rows[1].value == pytest.approx(rows[0].value, rel=1e-6)
    assert rows[1].n == 3


def test_losses_are_those_of_evaluation_mode_and_of_each_label_set() -> None:
    model = MultitaskClassifier(
        [shape_task("circle", nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.9)))], device="cpu"
    ).train()
    labels = torch.tensor([0, 1, 1, 0])
    loader = loader_of({"circle_task": labels, "flipped": 1 - labels})
    remap: dict[str, str | None] = {"flipped": "circle_task"}
    first, second = (model.evaluate([loader], remap, with_loss=True) for _ in range(2))
    assert first == second
    assert [row.task for row in first if row.metric == "loss"] == ["circle_task", "flipped"]
    assert model.training
    assert not any(row.metric == "loss" for row in model.evaluate([loader], remap))


def test_a_loss_of_ones_own_has_no_row_and_a_metric_called_loss_keeps_its_place() -> None:
    own = shape_task("circle", loss_func=F.cross_entropy)
    loader = loader_of({"circle_task": torch.tensor([0, 1])})
    rows = MultitaskClassifier([own], device="cpu").evaluate([loader], with_loss=True)
    assert [row.metric for row in rows] == ["accuracy"]
    named = shape_task("circle", scorer=Scorer(custom_metric_funcs={"loss": lambda golds, preds, probs: 7.0}))
    (row,) = MultitaskClassifier([named], device="cpu").evaluate([loader], with_loss=True)
    assert (row.metric, row.value) == ("loss", 7.0)


def test_a_loss_that_is_not_finite_says_so() -> None:
    task = shape_task("circle", head=nn.Linear(4, 2))
    nn.init.constant_(task.module_pool["circle_head"].bias, math.nan)
    model = MultitaskClassifier([task], device="cpu")
    row = model.evaluate([loader_of({"circle_task": torch.tensor([0, 1])})], with_loss=True)[-1]
    assert (row.metric, row.reason) == ("loss", "the loss is nan")


def test_scores_as_a_dataframe_have_a_row_for_each_key() -> None:
    model, loaders = two_shapes(), shape_loaders(splits=("train", "valid"))
    scores, frame = model.score(loaders), model.score(loaders, as_dataframe=True)
    assert list(frame.columns) == ["label", "dataset", "split", "metric", "score"]
    keys = ["/".join(row[:4]) for row in frame.itertuples(index=False)]
    assert dict(zip(keys, frame["score"], strict=True)) == scores


def test_an_empty_split_has_undefined_scores() -> None:
    data = DictDataset(
        "d", "test", {"circle_data": torch.zeros(0, 2)}, {"circle_task": torch.zeros(0).long()}
    )
    rows = two_shapes().evaluate([DictDataLoader(data)], with_loss=True)
    assert [(row.metric, row.n, row.reason) for row in rows] == [
        (metric, 0, "no example is labelled") for metric in ("accuracy", "loss")
    ]
