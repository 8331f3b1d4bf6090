from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from mtl_core import SpecError, TaskloomError
from mtl_core.losses import LOSSES, cross_entropy_with_probs

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -1.0]])


def test_cross_entropy_takes_classes_of_any_integer_type_and_distributions() -> None:
    loss = LOSSES.build("cross_entropy")
    classes = torch.tensor([2, 0])
    expected = F.cross_entropy(LOGITS, classes)
    assert torch.equal(loss(LOGITS, classes), expected)
    assert torch.equal(loss(LOGITS, classes.int()), expected)
    torch.testing.assert_close(loss(LOGITS, F.one_hot(classes, 3).float()), expected)


def test_cross_entropy_takes_weights_and_smoothing() -> None:
    loss = LOSSES.build({"type": "cross_entropy", "weight": [1, 2, 3], "label_smoothing": 0.1})
    expected = F.cross_entropy(
        LOGITS, torch.tensor([2, 0]), weight=torch.tensor([1.0, 2, 3]), label_smoothing=0.1
    )
    assert torch.equal(loss(LOGITS, torch.tensor([2, 0])), expected)


@pytest.mark.parametrize("weight", [None, [1, 0.5, 3]])
def test_a_sum_is_over_the_labels_that_are_given(weight: list[float] | None) -> None:
    loss = LOSSES.build({"type": "cross_entropy", "weight": weight, "reduction": "sum"})
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, -1, -1], [2, -1, 1, 0]])
    flat, given_ = logits.transpose(1, 2).reshape(-1, 3), labels.flatten() != -1
    class_weight = None if weight is None else torch.tensor(weight, dtype=torch.float32)
    expected = F.cross_entropy(flat[given_], labels.flatten()[given_], class_weight, reduction="sum")
    torch.testing.assert_close(loss(logits, labels), expected)


def test_missing_positions_of_a_sequence_do_not_count() -> None:
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, -1, -1], [2, -1, 1, 0]])
    flat, given = logits.transpose(1, 2).reshape(-1, 3), labels.flatten() != -1
    torch.testing.assert_close(
        LOSSES.build("cross_entropy")(logits, labels), F.cross_entropy(flat[given], labels.flatten()[given])
    )


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("binary_cross_entropy", F.binary_cross_entropy_with_logits),
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", F.huber_loss),
    ],
)
def test_element_wise_losses_average_over_the_labels_given(name: str, reference: object) -> None:
    assert callable(reference)
    loss = LOSSES.build(name)
    outputs = torch.randn(4, 2, requires_grad=True)
    labels = torch.tensor([[0.0, 1.0], [-1.0, 1.0], [math.nan, 0.0], [1.0, 1.0]])
    given = torch.tensor([[True, True], [False, True], [False, True], [True, True]])
    value = loss(outputs, labels)
    torch.testing.assert_close(value, reference(outputs[given], labels[given]))
    value.backward()
    assert outputs.grad is not None
    assert outputs.grad[~given].tolist() == [0, 0]
    assert outputs.grad.isfinite().all()


CASES = {
    "classes": ("cross_entropy", "classes"),
    "class weights": ({"type": "cross_entropy", "weight": [1, 0.5, 3], "label_smoothing": 0.1}, "classes"),
    "positions": ("cross_entropy", "positions"),
    "positions with class weights": ({"type": "cross_entropy", "weight": [1, 0.5, 3]}, "positions"),
    "distributions": ({"type": "cross_entropy", "weight": [1, 0.5, 3]}, "distributions"),
    "binary": ({"type": "binary_cross_entropy", "pos_weight": 2}, "several"),
    "mse": ("mse", "several"),
    "mae": ("mae", "one"),
    "huber": ({"type": "huber", "delta": 0.5}, "flat"),
}


def examples(kind: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels of n examples, some entries of those with several labels missing."""
    several = torch.randint(0, 2, (n, 3)).float()
    several[::2, 1] = math.nan
    positions = torch.randint(0, 3, (n, 4))
    positions[::2, 1] = -1
    return {
        "classes": (torch.randn(n, 3), torch.randint(0, 3, (n,))),
        "positions": (torch.randn(n, 3, 4), positions),
        "distributions": (torch.randn(n, 3), torch.rand(n, 3).softmax(dim=1)),
        "several": (torch.randn(n, 3), several),
        "one": (torch.randn(n, 1), torch.rand(n)),
        "flat": (torch.randn(n), torch.rand(n)),
    }[kind]


SUMMED = {
    "sum over classes": ({"type": "cross_entropy", "weight": [1, 0.5, 3], "reduction": "sum"}, "classes"),
    "sum over positions": ({"type": "cross_entropy", "reduction": "sum"}, "positions"),
    "sum over distributions": ({"type": "cross_entropy", "reduction": "sum"}, "distributions"),
}


@pytest.mark.parametrize("case", CASES | SUMMED)
@settings(max_examples=20)
@given(weights=st.lists(st.integers(0, 4), min_size=1, max_size=8).filter(any))
def test_an_example_of_a_whole_weight_counts_as_so_many(case: str, weights: list[int]) -> None:
    spec, kind = (CASES | SUMMED)[case]
    loss = LOSSES.build(spec)
    outputs, labels = examples(kind, len(weights))
    repeats = torch.tensor(weights)
    outputs.requires_grad_()
    weighted = loss(outputs, labels, repeats.float())
    repeated = loss(outputs.repeat_interleave(repeats, dim=0), labels.repeat_interleave(repeats, dim=0))
    torch.testing.assert_close(weighted, repeated)
    gradients = [torch.autograd.grad(value, outputs)[0] for value in (weighted, repeated)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("case", CASES)
def test_equal_weights_are_as_none_whatever_they_are(case: str) -> None:
    spec, kind = CASES[case]
    outputs, labels = examples(kind, 6)
    plain = LOSSES.build(spec)(outputs, labels)
    for weight in (1.0, 0.25, 7.0):
        torch.testing.assert_close(LOSSES.build(spec)(outputs, labels, torch.full((6,), weight)), plain)


@pytest.mark.parametrize("case", CASES)
def test_where_nothing_weighs_anything_loss_and_gradient_are_0(case: str) -> None:
    spec, kind = CASES[case]
    outputs, labels = examples(kind, 5)
    outputs.requires_grad_()
    loss = LOSSES.build(spec)(outputs, labels, torch.zeros(5))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert torch.equal(outputs.grad, torch.zeros_like(outputs))


@pytest.mark.parametrize("name", ["binary_cross_entropy", "mse", "mae", "huber"])
def test_one_output_meets_flat_labels_and_nothing_is_broadcast(name: str) -> None:
    loss, labels = LOSSES.build(name), torch.tensor([1, 0, 1])
    assert torch.equal(loss(torch.zeros(3, 1), labels), loss(torch.zeros(3), labels))
    for outputs in (torch.zeros(3, 3), torch.zeros(1, 3), torch.zeros(3, 1, 1)):
        with pytest.raises(ValueError, match="one shape"):
            loss(outputs, labels)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"type": "cross_entropy", "label_smoothing": 1.5}, ""),
        ({"type": "cross_entropy", "weight": [1, -1]}, ""),
        ({"type": "cross_entropy", "weight": []}, ""),
        ({"type": "cross_entropy", "weight": "heavy"}, "/weight"),
        ({"type": "cross_entropy", "weights": [1]}, "/weights"),
        ({"type": "binary_cross_entropy", "pos_weight": 0}, ""),
        ({"type": "huber", "delta": True}, "/delta"),
        ({"type": "hubert"}, "/type"),
        ("hubert", ""),
        ({}, "/type"),
        (3, ""),
    ],
)
def test_wrong_loss_specs_are_refused_at_the_argument(spec: object, pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        LOSSES.build(spec)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


def test_a_misspelt_name_comes_with_a_suggestion() -> None:
    with pytest.raises(SpecError, match="did you mean cross_entropy"):
        LOSSES.build("cross_entrophy")


@settings(max_examples=25)
@given(
    n=st.integers(1, 8),
    k=st.integers(2, 5),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    weighted=st.booleans(),
)
def test_soft_cross_entropy_is_that_of_its_classes_each_by_its_share(
    n: int, k: int, reduction: Any, weighted: bool
) -> None:
    logits, target = torch.randn(n, k), torch.rand(n, k)
    weight = torch.rand(k) if weighted else None
    value = cross_entropy_with_probs(logits, target, weight, reduction)
    shares = target if weight is None else target * weight
    losses = torch.zeros(n)
    for y in range(k):
        losses += shares[:, y] * F.cross_entropy(logits, torch.full((n,), y), reduction="none")
    expected = {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]
    torch.testing.assert_close(value, expected)


def test_weights_of_classes_divide_the_mean_of_classes_and_not_that_of_distributions() -> None:
    loss = LOSSES.build({"type": "cross_entropy", "weight": [1, 2, 3]})
    classes, weight = torch.tensor([2, 0]), torch.tensor([1.0, 2, 3])
    shares = F.one_hot(classes, 3).float()
    torch.testing.assert_close(loss(LOGITS, shares), cross_entropy_with_probs(LOGITS, shares, weight))
    torch.testing.assert_close(loss(LOGITS, shares) * 2 / weight[classes].sum(), loss(LOGITS, classes))


def test_soft_cross_entropy_refuses_what_does_not_match() -> None:
    with pytest.raises(TaskloomError, match=r"not \[2, 3\] and \[2\]"):
        cross_entropy_with_probs(LOGITS, torch.tensor([0.0, 1.0]))
    with pytest.raises(TaskloomError, match="reduction 'average' is unknown"):
        cross_entropy_with_probs(LOGITS, LOGITS, reduction=cast("Any", "average"))
