"""Temperatures are found again where they are known, and are the best there are where they are not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mtl_core import TaskloomError, fit_temperatures
from mtl_core.outputs import Identity, Sigmoid, Softmax

N = 20_000


def classes_of(logits: torch.Tensor) -> torch.Tensor:
    """Classes drawn as the logits ``[n, k]`` say."""
    return torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)


def answers_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.bernoulli(logits.sigmoid())


def test_a_known_temperature_is_found_again() -> None:
    true = torch.randn(N, 5) * 2
    for temperature in (0.3, 1.0, 4.0):
        found = fit_temperatures(true * temperature, classes_of(true), Softmax())
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx([temperature], rel=0.05)


def test_known_temperatures_of_classes_are_found_again() -> None:
    true, temperatures = torch.randn(N, 3) * 2, torch.tensor([0.5, 1.5, 3.0])
    found = fit_temperatures(true * temperatures, classes_of(true), Softmax(), per_class=True)
    assert found.tolist() == pytest.approx(temperatures.tolist(), rel=0.1)


def test_known_temperatures_of_outputs_are_found_again_where_labels_are_missing() -> None:
    true, temperatures = torch.randn(N, 3) * 2, torch.tensor([0.5, 1.5, 3.0])
    golds = answers_of(true)
    golds[torch.rand(N, 3) < 0.3] = math.nan
    golds[:10] = -1
    logits = true * temperatures
    # What is not labelled does not count, whatever it is.
    logits[golds.isnan()] = 1_000.0
    logits[:10] = math.nan
    found = fit_temperatures(logits, golds, Sigmoid(), per_class=True)
    assert found.tolist() == pytest.approx(temperatures.tolist(), rel=0.1)
    together = fit_temperatures(logits, golds, Sigmoid()).item()
    assert 0.5 < together < 3


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_one_output_may_have_a_dimension_or_none(shape: tuple[int, ...]) -> None:
    true = torch.randn(N) * 2
    golds = answers_of(true).long()
    logits = (true * 2.5).reshape(shape)
    found = [
        fit_temperatures(logits, golds.reshape(like), Sigmoid(), per_class).item()
        for per_class in (False, True)
        for like in {(N,), shape}
    ]
    assert found == pytest.approx([found[0]] * len(found))
    assert found[0] == pytest.approx(2.5, rel=0.05)


def test_positions_count_as_examples_do() -> None:
    true = torch.randn(N, 3)
    golds = classes_of(true)
    golds[::7] = -1
    flat = fit_temperatures(true * 2, golds, Softmax(), per_class=True)
    dense, labels = (true * 2).reshape(-1, 10, 3).movedim(-1, 1), golds.reshape(-1, 10)
    assert torch.equal(fit_temperatures(dense, labels, Softmax(), per_class=True), flat)
    yes = (golds[:, None] == torch.arange(3)).float()
    flat = fit_temperatures(true * 2, yes, Sigmoid(), per_class=True)
    dense_yes = yes.reshape(-1, 10, 3).movedim(-1, 1)
    assert torch.equal(fit_temperatures(dense, dense_yes, Sigmoid(), per_class=True), flat)


def test_distributions_are_labels_too() -> None:
    true = torch.randn(50, 3)
    shares = true.softmax(dim=1)
    shares[3] = -1
    assert fit_temperatures(true * 3, shares, Softmax()).item() == pytest.approx(3)
    assert fit_temperatures(true * 3, shares, Softmax(), per_class=True).tolist() == pytest.approx([3] * 3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), k=st.integers(2, 4), size=st.floats(0.1, 10))
def test_nothing_nearby_is_better_and_more_temperatures_are_no_worse(
    seed: int, n: int, k: int, size: float
) -> None:
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=made).double() * size
    golds = torch.randint(k, (n,), generator=made)

    def loss(temperatures: torch.Tensor) -> float:
        return functional.cross_entropy(logits / temperatures, golds).item()

    one = fit_temperatures(logits, golds, Softmax())
    own = fit_temperatures(logits, golds, Softmax(), per_class=True)
    assert 0.05 <= min(one.min(), own.min()) <= max(one.max(), own.max()) <= 20
    nearby = [(one * factor).clamp(0.05, 20) for factor in (0.98, 1.02)]
    assert loss(own) - 1e-9 <= loss(one) <= min(loss(torch.ones(1)), *map(loss, nearby)) + 1e-9
    assert torch.equal(fit_temperatures(logits, golds, Softmax(), per_class=True), own)


def test_bounds_hold_where_there_is_no_best() -> None:
    logits, right = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert fit_temperatures(logits, right, Softmax()).item() == pytest.approx(0.05)
    assert fit_temperatures(logits, 1 - right, Softmax()).item() == pytest.approx(20)


def test_classes_without_a_label_go_by_all_together() -> None:
    true = torch.randn(500, 3)
    golds = true[:, :2].argmax(dim=1)
    golds[::5] = 1 - golds[::5]
    one = fit_temperatures(true, golds, Softmax()).item()
    own = fit_temperatures(true, golds, Softmax(), per_class=True).tolist()
    assert own[2] == pytest.approx(one)
    assert own[0] != pytest.approx(one)
    yes = torch.stack([answers_of(true[:, 0]), torch.zeros(500), torch.full((500,), -1.0)], dim=1)
    one = fit_temperatures(true, yes, Sigmoid()).item()
    own = fit_temperatures(true, yes, Sigmoid(), per_class=True).tolist()
    assert own[1:] == pytest.approx([one, one])


@pytest.mark.parametrize(
    ("logits", "golds", "output", "why"),
    [
        (torch.zeros(3, 2), torch.full((3,), -1), Softmax(), "no example is labelled"),
        (torch.zeros(0, 2), torch.zeros(0).long(), Softmax(), "no example is labelled"),
        (torch.zeros(3, 2), torch.full((3, 2), math.nan), Sigmoid(), "no example is labelled"),
        (torch.tensor([[0.0, math.inf]]), torch.tensor([0]), Softmax(), "not finite"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), Softmax(), "classes from 0 to 1"),
        (torch.zeros(3, 2), torch.tensor([[0.0, 2.0]] * 3), Sigmoid(), "0 or 1"),
        (torch.zeros(3, 2), torch.zeros(3), Sigmoid(), r"shape \[3\] do not suit"),
        (torch.zeros(3), torch.zeros(3).long(), Softmax(), "do not suit"),
        (torch.zeros(3, 1), torch.zeros(3), Identity(), "neither a softmax nor a sigmoid"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(
    logits: torch.Tensor, golds: torch.Tensor, output: Softmax, why: str
) -> None:
    with pytest.raises(TaskloomError, match=why):
        fit_temperatures(logits, golds, output)
