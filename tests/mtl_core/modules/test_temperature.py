"""Temperatures divide logits, are no parameters, and follow the classes whatever comes after them."""

from __future__ import annotations

import pytest
import torch

from mtl_core.modules.temperature import Temperature


def test_it_starts_as_the_identity_and_is_not_trained() -> None:
    for n_classes, shape in ((1, (4,)), (1, (4, 3)), (3, (4, 3)), (3, (4, 3, 5, 2))):
        module, x = Temperature(n_classes), torch.randn(shape)
        assert torch.equal(module(x), x)
        assert list(module.parameters()) == []
        assert list(module.state_dict()) == ["temperature"]


def test_each_class_is_divided_by_its_own() -> None:
    module, x = Temperature(3), torch.randn(4, 3, 3)
    module.temperature.copy_(torch.tensor([1.0, 2.0, 4.0]))
    for i, temperature in enumerate((1.0, 2.0, 4.0)):
        assert torch.equal(module(x)[:, i], x[:, i] / temperature)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 2, 3)])
def test_other_numbers_of_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="works on"):
        Temperature(3)(torch.zeros(shape))
