from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from mtl_core.model.architecture import difference, spec_difference
from mtl_core.modules import build_module

from ..modules.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
def test_modules_built_alike_do_not_differ(case: Any) -> None:
    assert difference(build_module(case.spec), build_module(case.spec)) is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (nn.Linear(2, 3), nn.Linear(2, 4), "out_features is 3 in one and 4 in the other"),
        (nn.Linear(2, 3), nn.Bilinear(2, 2, 3), "Linear in one and Bilinear in the other"),
        (nn.Dropout(0.1), nn.Dropout(0.2), "p is 0.1 in one and 0.2 in the other"),
        (
            nn.Linear(2, 3).double(),
            nn.Linear(2, 3),
            "weight is torch.float64 [3, 2] in one and torch.float32 [3, 2]",
        ),
        (
            nn.Sequential(nn.ReLU()),
            nn.Sequential(nn.ReLU(), nn.ReLU()),
            "inner modules 0 in one and 0, 1 in the other",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2))),
            nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 2, bias=False))),
            "1.0: bias is torch.float32 [2] in one and None in the other",
        ),
        (
            nn.TransformerEncoderLayer(4, 2, activation="relu"),
            nn.TransformerEncoderLayer(4, 2, activation="gelu"),
            "activation",
        ),
    ],
)
def test_the_first_difference_is_told_in_words(first: nn.Module, second: nn.Module, message: str) -> None:
    assert message in str(difference(first, second))


def test_a_layer_that_one_spec_lacks_is_told() -> None:
    relu = {"type": "ReLU"}
    short, long = ({"type": "Sequential", "layers": [relu] * n} for n in (1, 2))
    assert spec_difference(short, long) == "layers.1.type is absent in one and ReLU in the other"
    assert spec_difference(short, short) is None
