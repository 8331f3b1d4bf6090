"""What may stand together in one field, and what no column may be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mtl_core.preprocessing import FieldPlan

NUMBER = {"type": "number", "name": "n"}
INDEX = {"type": "categorical", "name": "i", "encode": "index"}
ONEHOT = {"type": "categorical", "name": "o"}


@pytest.mark.parametrize(
    "columns",
    [
        [
            NUMBER,
            ONEHOT,
            {"type": "datetime", "name": "d"},
            {"type": "list", "name": "l"},
            {"type": "boolean", "name": "b"},
        ],
        [INDEX, INDEX | {"name": "j"}],
        [{"type": "text", "name": "t"}],
        [{"type": "sequence", "name": "s"}],
        [{"type": "tensor", "name": "x"}],
    ],
)
def test_numbers_or_indices_or_one_column_alone_make_a_field(columns: list[Any]) -> None:
    plan = FieldPlan.model_validate({"columns": columns})
    assert FieldPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("columns", "detail"),
    [
        ([NUMBER, NUMBER], "column 'n' is named 2 times"),
        ([NUMBER, INDEX], "column 'i' gives indices, but column 'n' numbers: put them into two fields"),
        ([NUMBER, {"type": "text", "name": "t"}], "column 't': a text is a field of its own"),
        ([{"type": "tensor", "name": "x"}, NUMBER], "column 'x': a tensor is a field of its own"),
        ([], "at least 1 item"),
        ([NUMBER | {"scale": "z"}], "'standard', 'robust'"),
        ([NUMBER | {"impute": "nan"}], "impute"),
        ([NUMBER | {"impute": float("inf")}], "finite number"),
        ([NUMBER | {"min_count": 2}], "Extra inputs"),
        ([{"type": "colour", "name": "c"}], "does not match any of the expected tags"),
        (
            [ONEHOT | {"hash_buckets": 2**20}],
            "column 'o': hash_buckets is at most 65,536 with encode 'onehot'",
        ),
        ([ONEHOT | {"max_size": 100_000}], "column 'o': max_size is at most 65,536"),
        ([{"type": "datetime", "name": "d", "parts": ["day", "day"]}], "column 'd': a part is named twice"),
        ([NUMBER | {"name": ""}], "at least 1 character"),
    ],
)
def test_what_makes_no_field_is_refused_with_the_column(columns: list[Any], detail: str) -> None:
    with pytest.raises(ValidationError, match=detail):
        FieldPlan.model_validate({"columns": columns})
