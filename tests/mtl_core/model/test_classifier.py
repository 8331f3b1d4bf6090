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
    Task,
    TaskloomError,
)

from ..shapes import shape_task


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
    assert model({"x": torch.zeros(1, 2)}, ["t"])[name].shape == (1, 2)
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
    logits = model(X_dict, ["circle_task"])["circle_head"]
    assert counts == {"circle_task": 2}
    assert list(losses) == ["circle_task"]
    torch.testing.assert_close(losses["circle_task"], F.cross_entropy(logits[[0, 2]], labels[[0, 2]]))


WEIGHTED = {"circle_data": torch.rand(4, 2), "_weights_": torch.tensor([2.0, 5.0, 0.5, 1.0])}


def test_example_weights_weigh_the_losses_of_labelled_examples() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    labels = torch.tensor([1, -1, 0, 1])
    losses, counts = model.calculate_loss(WEIGHTED, {"circle_task": labels})
    logits = model(WEIGHTED, ["circle_task"])["circle_head"]
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
    for outputs in (model(WEIGHTED, ["t"])["m"], model.infer(WEIGHTED, ["t"])["t"]["logits"]):
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


def test_frozen_parts_of_a_model_in_training_are_given_back_as_they_were() -> None:
    model = two_shapes()
    model.train()
    model.module_pool["base_mlp"].eval()
    model.infer({"circle_data": torch.zeros(2, 2)}, ["circle_task"])
    assert not model.module_pool["base_mlp"].training
    assert model.module_pool["circle_head"].training


def test_of_the_kinds_of_predictions_only_those_asked_for_are_made() -> None:
    task = shape_task("circle", output_func=lambda logits: logits[:, 0])
    model = MultitaskClassifier([task], device="cpu")
    X_dict = {"circle_data": torch.randn(3, 2)}
    predicted = model.infer(X_dict, ["circle_task"], ("probs", "logits"))["circle_task"]
    assert list(predicted) == ["probs", "logits"]
    assert torch.equal(predicted["probs"], predicted["logits"][:, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_answered_in_full(dtype: torch.dtype) -> None:
    task = shape_task("circle", nn.Linear(2, 4).to(dtype), nn.Linear(4, 2).to(dtype))
    model = MultitaskClassifier([task], device="cpu")
    predicted = model.infer({"circle_data": torch.randn(3, 2).to(dtype)}, ["circle_task"])["circle_task"]
    assert {predicted["logits"].dtype, predicted["probs"].dtype} == {torch.float32}


class Parts(nn.Module):
    """Answers several tensors at once, and a number for the whole batch."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        logits, penalty = self.linear(x), self.linear.weight.square().sum()
        return (
            (logits, (x, penalty))
            if self.as_tuple
            else {"logits": logits, "rest": {"x": x, "penalty": penalty}}
        )


@pytest.mark.parametrize("as_tuple", [True, False])
def test_of_outputs_in_parts_the_loss_gets_the_labelled_rows_of_each(as_tuple: bool) -> None:
    seen: list[Any] = []

    def loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.append((outputs, labels))
        logits, penalty = (
            (outputs[0], outputs[1][1]) if as_tuple else (outputs["logits"], outputs["rest"]["penalty"])
        )
        return F.cross_entropy(logits, labels) + penalty

    def probs(outputs: Any) -> torch.Tensor:
        return (outputs[0] if as_tuple else outputs["logits"]).softmax(dim=1)

    task = Task("t", {"m": Parts(as_tuple)}, [Operation("m", [("_input_", "x")])], None, loss, probs)
    model = MultitaskClassifier([task], device="cpu")
    x, labels = torch.randn(4, 2), torch.tensor([1, -1, 0, -1])
    losses, counts = model.calculate_loss({"x": x}, {"t": labels})
    (outputs, given) = seen[0]
    rest = outputs[1] if as_tuple else tuple(outputs["rest"].values())
    assert torch.equal(rest[0], x[[0, 2]])
    assert rest[1].ndim == 0
    assert given.tolist() == [1, 0]
    assert counts == {"t": 2}
    losses["t"].backward()
    predicted = model.infer({"x": x}, ["t"])["t"]
    assert predicted["preds"].tolist() == predicted["probs"].argmax(dim=1).tolist()
    assert type(predicted["logits"]) is (tuple if as_tuple else dict)


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, -1, 1]])
def test_outputs_without_a_row_for_each_example_are_refused(labels: list[int]) -> None:
    class Transposed(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x.T

    task = Task(
        "t", {"m": Transposed()}, [Operation("m", [("_input_", "x")])], None, lambda out, y: out[0].sum()
    )
    with pytest.raises(LossError, match=r"a row for each of 3 examples, and one is of shape \[2, 3\]"):
        MultitaskClassifier([task], device="cpu").calculate_loss(
            {"x": torch.zeros(3, 2)}, {"t": torch.tensor(labels)}
        )


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(TaskloomError, match=r"unrecognized task \{'name': 't'\}"):
        MultitaskClassifier([{"name": "t"}])  # type: ignore[list-item]
