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
    "focal": ({"type": "focal", "weight": [1, 0.5, 3]}, "classes"),
    "focal positions": ({"type": "focal", "gamma": 0.5}, "positions"),
    "weights of labels": (
        {"type": "binary_cross_entropy", "pos_weight": [2, 1, 3], "label_smoothing": 0.2},
        "several",
    ),
    "binary focal": ({"type": "binary_focal", "pos_weight": 2}, "several"),
    "corn": ("corn", "ordinal"),
    "pinball": ("pinball", "quantiles"),
    "pinball of vectors": ("pinball", "quantiles of several"),
    "poisson": ("poisson", "several"),
    "ranknet": ("ranknet", "flat"),
    "ranknet in groups": ("ranknet", "groups"),
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
        "ordinal": (torch.randn(n, 3), torch.randint(0, 4, (n,))),
        "quantiles": (torch.randn(n, 3), torch.randn(n)),
        "quantiles of several": (torch.randn(n, 3, 3), several),
        "groups": (torch.randn(n, 1), torch.randint(0, 3, (n, 2))),
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
        ({"type": "binary_cross_entropy", "pos_weight": [1, 0]}, ""),
        ({"type": "binary_cross_entropy", "pos_weight": []}, ""),
        ({"type": "binary_cross_entropy", "label_smoothing": -0.1}, ""),
        ({"type": "focal", "gamma": -1}, ""),
        ({"type": "binary_focal", "gamma": "2"}, "/gamma"),
        ({"type": "pinball", "quantiles": [0.5, 0.1]}, ""),
        ({"type": "pinball", "quantiles": [0.1, 1.0]}, ""),
        ({"type": "pinball", "quantiles": []}, ""),
        ({"type": "ranknet", "max_partners": 0}, ""),
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


@pytest.mark.parametrize("extra", [{}, {"weight": [1, 0.5, 3]}])
def test_focal_is_cross_entropy_by_what_its_probability_lacks(extra: dict[str, Any]) -> None:
    logits, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    p = logits.softmax(dim=1)[torch.arange(6), classes].double()
    weight = torch.tensor(extra.get("weight", [1, 1, 1])).double()[classes]
    value = LOSSES.build({"type": "focal", "gamma": 1.5, **extra})(logits, classes)
    expected = (weight * (1 - p) ** 1.5 * -p.log()).sum() / weight.sum()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    plain = LOSSES.build({"type": "cross_entropy", **extra})(logits, classes)
    torch.testing.assert_close(LOSSES.build({"type": "focal", "gamma": 0, **extra})(logits, classes), plain)


def test_binary_focal_is_that_of_the_paper_but_for_a_factor() -> None:
    logits, labels = torch.randn(8), torch.tensor([0.0, 1, 1, 0, 0, 1, 0, 1])
    p = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    alpha = torch.where(labels == 1, 0.25, 0.75)
    expected = (alpha * (1 - p) ** 2 * -p.log()).mean()
    loss = LOSSES.build({"type": "binary_focal", "pos_weight": 0.25 / 0.75})
    torch.testing.assert_close(0.75 * loss(logits, labels), expected)
    same = [{"type": "binary_focal", "gamma": 0}, {"type": "binary_cross_entropy"}]
    torch.testing.assert_close(*(LOSSES.build(spec)(logits, labels) for spec in same))


@pytest.mark.parametrize("name", ["focal", "binary_focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_of_a_focal_loss_is_finite_where_an_example_is_certain(name: str, gamma: float) -> None:
    outputs = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 0]) if name == "focal" else torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = LOSSES.build({"type": name, "gamma": gamma})(outputs, labels)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_smoothed_binary_labels_are_smoothed_classes_of_two() -> None:
    logits, labels = torch.randn(5), torch.tensor([0, 1, 1, 0, 1])
    of_two = torch.stack([torch.zeros(5), logits], dim=1)
    expected = F.cross_entropy(of_two, labels, label_smoothing=0.3)
    loss = LOSSES.build({"type": "binary_cross_entropy", "label_smoothing": 0.3})
    torch.testing.assert_close(loss(logits, labels), expected)


def test_a_list_of_weights_has_one_for_each_output_and_no_other_number() -> None:
    logits, labels = torch.randn(3, 2), torch.ones(3, 2)
    loss = LOSSES.build({"type": "binary_cross_entropy", "pos_weight": [2, 5]})
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=0)
    torch.testing.assert_close(loss(logits, labels), (2 * each[0] + 5 * each[1]) / 2)
    for outputs in (torch.zeros(2), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="one for each output"):
            loss(outputs, torch.zeros_like(outputs))


def test_corn_asks_each_step_of_the_labels_that_reach_it() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 3, 1, -1, 2])
    terms = [
        F.binary_cross_entropy_with_logits(logits[i, j], torch.tensor(float(y > j)))
        for i, y in enumerate(labels.tolist())
        for j in range(3)
        if y >= j and y >= 0
    ]
    torch.testing.assert_close(LOSSES.build("corn")(logits, labels), torch.stack(terms).mean())


def test_pinball_is_least_at_the_quantiles_of_the_labels() -> None:
    labels = torch.arange(101.0)
    loss = LOSSES.build({"type": "pinball", "quantiles": [0.25, 0.5]})

    def of(low: float, middle: float) -> float:
        return loss(torch.tensor([[float(low), middle]]).expand(101, 2), labels).item()

    assert of(25, 50) < min(of(20, 50), of(30, 50), of(25, 45), of(25, 55))
    assert LOSSES.build({"type": "pinball", "quantiles": [0.5]})(labels[:, None], labels + 2).item() == 1
    torch.testing.assert_close(
        loss(torch.ones(3, 2), torch.zeros(3, 1)), loss(torch.ones(3, 2), torch.zeros(3))
    )
    with pytest.raises(ValueError, match="each of 2 quantiles"):
        loss(torch.zeros(3, 3), torch.zeros(3))


def test_poisson_is_the_likelihood_of_counts() -> None:
    rates, counts = torch.tensor([0.5, 2.0, 7.0]), torch.tensor([0, 3, 5])
    expected = -torch.distributions.Poisson(rates).log_prob(counts) - torch.lgamma(counts + 1.0)
    torch.testing.assert_close(LOSSES.build("poisson")(rates.log(), counts), expected.mean())


def ranknet_by_hand(scores: list[float], groups: list[int], relevances: list[float]) -> float:
    terms = [
        math.log1p(math.exp(-(scores[i] - scores[j])))
        for i in range(len(scores))
        for j in range(len(scores))
        if groups[i] == groups[j] and relevances[i] > relevances[j]
    ]
    return sum(terms) / len(terms)


def test_ranknet_compares_what_is_of_one_group_and_differs() -> None:
    scores, groups, relevances = [0.3, -1.0, 2.0, 0.5, 0.1], [7, 3, 7, 7, 3], [2.0, 0.0, 1.0, 2.0, 5.0]
    labels = torch.tensor(list(zip(groups, relevances, strict=True)))
    loss = LOSSES.build("ranknet")
    assert loss(torch.tensor(scores), labels).item() == pytest.approx(
        ranknet_by_hand(scores, groups, relevances)
    )
    assert loss(torch.tensor(scores)[:, None], labels[:, 1]).item() == pytest.approx(
        ranknet_by_hand(scores, [0] * 5, relevances)
    )
    unlabelled = torch.tensor([[7, math.nan], [-1.0, 1.0], [7, -1.0]])
    longer = torch.cat([labels, unlabelled])
    assert loss(torch.tensor([*scores, 9.0, 9.0, 9.0]), longer).item() == pytest.approx(
        ranknet_by_hand(scores, groups, relevances)
    )


@pytest.mark.parametrize("labels", [[1.0, 1.0, 1.0], [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]])
def test_a_batch_without_a_pair_pulls_nowhere(labels: Any) -> None:
    scores = torch.randn(3, requires_grad=True)
    loss = LOSSES.build("ranknet")(scores, torch.tensor(labels))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0
    assert gradient.tolist() == [0, 0, 0]


def test_a_large_group_is_judged_by_some_of_its_pairs() -> None:
    scores = torch.arange(3000.0) / 1000
    noisy = scores + torch.randn(3000, generator=torch.Generator().manual_seed(1))
    every, some = (LOSSES.build({"type": "ranknet", "max_partners": m})(scores, noisy) for m in (3000, 32))
    assert some != every
    assert some.item() == pytest.approx(every.item(), rel=0.02)
