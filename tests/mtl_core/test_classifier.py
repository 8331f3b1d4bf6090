from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mtl_core import (
    DictDataLoader,
    DictDataset,
    LossError,
    ModuleConflictError,
    MultitaskClassifier,
    Operation,
    Scorer,
    Task,
    TaskloomError,
)

from .shapes import shape_data, shape_loaders, shape_task


def two_shapes() -> MultitaskClassifier:
    return MultitaskClassifier([shape_task("circle"), shape_task("square")], device="cpu")


def test_modules_of_one_name_are_one_module() -> None:
    model = two_shapes()
    assert list(model.module_pool) == ["base_mlp", "circle_head", "square_head"]
    assert model.task_names == ["circle_task", "square_task"]


def test_of_equal_declarations_the_first_ones_weights_are_taken() -> None:
    first, second = nn.Linear(2, 4), nn.Linear(2, 4)
    model = MultitaskClassifier([shape_task("circle", first), shape_task("square", second)], device="cpu")
    assert model.module_pool["base_mlp"] is first


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (nn.Linear(2, 4, bias=False), "bias"),
        (nn.Linear(2, 5), "out_features is 4 in one and 5 in the other"),
        (nn.Sequential(nn.Linear(2, 4)), "Linear in one and Sequential in the other"),
    ],
)
def test_one_name_for_two_architectures_is_refused_with_both_tasks(other: nn.Module, difference: str) -> None:
    model = MultitaskClassifier([shape_task("circle", nn.Linear(2, 4))], device="cpu")
    with pytest.raises(ModuleConflictError, match=difference) as caught:
        model.add_task(shape_task("square", other, nn.LazyLinear(2)))
    for named in ("'base_mlp'", "'circle_task'", "'square_task'"):
        assert named in str(caught.value)
    assert model.task_names == ["circle_task"]
    assert list(model.module_pool) == ["base_mlp", "circle_head"]


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(TaskloomError, match="duplicate task 'circle_task'"):
        MultitaskClassifier([shape_task("circle"), shape_task("circle")])


@pytest.mark.parametrize("name", ["a.b", "a%2Eb", "type", "training", "forward", "_modules", "é"])
def test_any_name_will_do_for_a_module(name: str) -> None:
    model = MultitaskClassifier(
        [Task("t", {name: nn.Linear(2, 2)}, [Operation(name, [("_input_", "x")])])], device="cpu"
    )
    assert list(model.module_pool) == [name]
    assert name in model.module_pool
    assert model({"x": torch.zeros(1, 2)}, ["t"])["t"][name].shape == (1, 2)
    assert len(model.state_dict()) == 2


def test_an_added_task_leaves_weights_and_other_predictions_as_they_were() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    X_dict = {"circle_data": torch.randn(6, 2), "square_data": torch.randn(6, 2)}
    before = model.infer(X_dict, ["circle_task"])["circle_task"]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.add_task(shape_task("square"))
    after = model.infer(X_dict, ["circle_task", "square_task"])["circle_task"]
    assert all(torch.equal(before[kind], after[kind]) for kind in before)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())


def test_the_loss_is_that_of_labelled_examples_alone() -> None:
    model = two_shapes()
    X_dict = {"circle_data": torch.randn(4, 2), "square_data": torch.randn(4, 2)}
    labels = torch.tensor([1, -1, 0, -1])
    losses, counts = model.calculate_loss(
        X_dict, {"circle_task": labels, "square_task": torch.full((4,), -1)}
    )
    logits = model(X_dict, ["circle_task"])["circle_task"]["circle_head"]
    assert counts == {"circle_task": 2}
    assert list(losses) == ["circle_task"]
    torch.testing.assert_close(losses["circle_task"], F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))


WEIGHTED = {"circle_data": torch.rand(4, 2), "_weights_": torch.tensor([2.0, 5.0, 0.5, 1.0])}


def test_example_weights_weigh_the_losses_of_labelled_examples() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    labels = torch.tensor([1, -1, 0, 1])
    losses, counts = model.calculate_loss(WEIGHTED, {"circle_task": labels})
    logits = model(WEIGHTED, ["circle_task"])["circle_task"]["circle_head"]
    one_by_one = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    expected = (2 * one_by_one[0] + 0.5 * one_by_one[2] + one_by_one[3]) / 3.5
    torch.testing.assert_close(losses["circle_task"], expected)
    assert counts == {"circle_task": 3}


def test_weights_are_no_field() -> None:
    class Keys(nn.Module):
        def forward(self, fields: dict[str, Any]) -> torch.Tensor:
            assert list(fields) == ["circle_data"]
            return fields["circle_data"]

    model = MultitaskClassifier([Task("t", {"m": Keys()}, [Operation("m", ["_input_"])])], device="cpu")
    for outputs in (model(WEIGHTED, ["t"])["t"]["m"], model.infer(WEIGHTED, ["t"])["t"]["logits"]):
        assert torch.equal(outputs, WEIGHTED["circle_data"])
    losses, _ = model.calculate_loss(WEIGHTED, {"t": torch.zeros(4, dtype=torch.int64)})
    assert list(losses) == ["t"]


def test_a_batch_without_any_weight_trains_nothing_and_does_no_harm() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    X_dict = WEIGHTED | {"_weights_": torch.zeros(4)}
    losses, counts = model.calculate_loss(X_dict, {"circle_task": torch.tensor([1, 0, 1, 0])})
    losses["circle_task"].backward()
    assert losses["circle_task"].item() == 0
    assert counts == {"circle_task": 4}
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_a_loss_of_ones_own_takes_no_weights() -> None:
    task = shape_task("circle", loss_func=F.cross_entropy)
    model = MultitaskClassifier([task], device="cpu")
    labels = {"circle_task": torch.zeros(4, dtype=torch.int64)}
    model.calculate_loss({"circle_data": WEIGHTED["circle_data"]}, labels)
    with pytest.raises(LossError, match="task 'circle_task': its loss failed: it takes no example weights"):
        model.calculate_loss(WEIGHTED, labels)


@pytest.mark.parametrize(
    "weights",
    [
        torch.tensor([1.0, -1.0, 1.0, 1.0]),
        torch.tensor([1.0, float("nan"), 1.0, 1.0]),
        torch.tensor([1.0, float("inf"), 1.0, 1.0]),
        torch.ones(3),
        torch.ones(4, 1),
    ],
)
def test_weights_are_one_number_of_at_least_0_for_each_example(weights: torch.Tensor) -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    with pytest.raises(
        TaskloomError, match="the weights under '_weights_' should be finite and at least 0, one for"
    ):
        model.calculate_loss(WEIGHTED | {"_weights_": weights}, {"circle_task": torch.tensor([1, 0, 1, 0])})


def test_labels_of_tasks_that_the_model_lacks_are_ignored() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    X_dict, labels = {"circle_data": torch.zeros(2, 2)}, torch.zeros(2, dtype=torch.int64)
    losses, _ = model.calculate_loss(X_dict, {"circle_task": labels, "other_task": labels})
    assert list(losses) == ["circle_task"]
    loader = DictDataLoader(DictDataset("d", "test", X_dict, {"other_task": labels}))
    assert model.score([loader]) == {}


def test_a_loss_that_fails_names_its_task() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    with pytest.raises(LossError, match=r"task 'circle_task'.*outputs of shape \[2, 2\]"):
        model.calculate_loss({"circle_data": torch.zeros(2, 2)}, {"circle_task": torch.tensor([0, 7])})


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
    assert torch.equal(torch.from_numpy(results["preds"]["circle_task"]), expected["preds"])
    torch.testing.assert_close(torch.from_numpy(results["probs"]["circle_task"]), expected["probs"])
    assert "preds" not in model.predict(DictDataLoader(data))


def test_inference_is_deterministic_and_leaves_the_mode_alone() -> None:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model = MultitaskClassifier([shape_task("circle", trunk)], device="cpu")
    X_dict = {"circle_data": torch.randn(1, 2)}
    model.train()
    first, second = (model.infer(X_dict, ["circle_task"])["circle_task"]["logits"] for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    model.eval()
    model.infer(X_dict, ["circle_task"])
    assert not model.training


def test_an_unknown_task_is_refused() -> None:
    model = two_shapes()
    for ask in (model.forward, model.infer):
        with pytest.raises(TaskloomError, match="no task 'triangle_task'"):
            ask({"circle_data": torch.zeros(1, 2)}, ["triangle_task"])


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
