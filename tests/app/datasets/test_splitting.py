from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.datasets.splitting import NO_SPLIT, Splitting, assign, check_shares
from app.problems import Invalid
from app.storage.tables import Table, write_table

SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}
TableOf = Callable[..., Table]


@pytest.fixture
def table_of(tmp_path: Path) -> TableOf:
    """Return a function that makes a table of columns, in batches of 100 rows."""

    def make(**columns: Sequence[Any]) -> Table:
        whole = pa.table(columns)
        path = tmp_path / "table.arrow"
        write_table(path, whole.schema, whole.to_batches(max_chunksize=100))
        return Table(path)

    return make


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(10, 400),
    seed=st.integers(0, 2**63 - 1),
    shares=st.lists(st.floats(0.1, 0.3), max_size=3),
)
def test_shares_are_met_to_the_row_and_the_seed_decides(
    tmp_path_factory: pytest.TempPathFactory, rows: int, seed: int, shares: list[float]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.arrow"
    whole = pa.table({"x": range(rows)})
    write_table(path, whole.schema, whole.to_batches())
    wanted = {f"s{i}": share for i, share in enumerate([0.1, *shares])}
    names, assignment = assign(Splitting(shares=wanted, seed=seed), Table(path))
    again = assign(Splitting(shares=wanted, seed=seed), Table(path))[1]

    assert names == list(wanted)
    assert np.array_equal(assignment, again)
    for number, share in enumerate(wanted.values()):
        assert abs(int((assignment == number).sum()) - share * rows) <= 1
    left_out = int((assignment == NO_SPLIT).sum())
    assert abs(left_out - (1 - sum(wanted.values())) * rows) <= 1


def test_another_seed_deals_otherwise(table_of: TableOf) -> None:
    table = table_of(x=range(1000))
    one, other = (assign(Splitting(shares=SHARES, seed=seed), table)[1] for seed in (1, 2))
    assert (one != other).mean() > 0.2


def test_every_value_gets_its_share_in_every_split(table_of: TableOf) -> None:
    values = ["rare"] * 20 + ["common"] * 960 + [None] * 20
    table = table_of(y=values)
    names, assignment = assign(Splitting(shares=SHARES, seed=3, stratify_by="y"), table)
    for value in ("rare", None):
        of_value = assignment[[i for i, v in enumerate(values) if v == value]]
        assert [int((of_value == n).sum()) for n in range(3)] == [14, 3, 3], (value, names)


def test_no_group_straddles_splits_and_rows_that_come_later_join_theirs(table_of: TableOf) -> None:
    rng = np.random.default_rng(0)
    keys = [f"patient {n}" for n in rng.integers(0, 300, 3000)]
    rule = Splitting(shares=SHARES, seed=5, group_by="who")
    _, assignment = assign(rule, table_of(who=keys))
    home = {key: {int(s) for s, k in zip(assignment, keys, strict=True) if k == key} for key in set(keys)}
    assert all(len(splits) == 1 for splits in home.values())
    assert 0.6 < (assignment == 0).mean() < 0.8

    later = list(dict.fromkeys(keys))[::-1]
    _, of_later = assign(rule, table_of(who=later))
    assert [{int(split)} for split in of_later] == [home[key] for key in later]


def test_rows_without_a_group_are_groups_of_their_own(table_of: TableOf) -> None:
    rule = Splitting(shares=SHARES, seed=5, group_by="who")
    _, assignment = assign(rule, table_of(who=pa.array([None] * 1000, pa.string())))
    assert {0, 1, 2} == set(assignment.tolist())


@pytest.mark.parametrize("keys", [["a ", "b", "a", None], pa.array([7, 8, 7, None])])
def test_a_column_names_the_splits(table_of: TableOf, keys: Any) -> None:
    names, assignment = assign(Splitting(by_column="part"), table_of(part=keys))
    assert names == (["a", "b"] if isinstance(keys, list) else ["7", "8"])
    assert assignment.tolist() == [0, 1, 0, NO_SPLIT]


@pytest.mark.parametrize(
    ("rule", "values", "pointer", "detail"),
    [
        ({"by_column": "k"}, ["no split's name"], "/splits/by_column", "no split's name"),
        ({"by_column": "k"}, pa.array([None], pa.string()), "/splits/by_column", "all of it is missing"),
        ({"by_column": "k"}, [f"s{n}" for n in range(101)], "/splits/by_column", "more than 100 splits"),
        ({"shares": {"train": 0.9, "test": 0.1}}, ["a", "b"], "/splits", "split 'test' would have none"),
        (
            {"shares": {"train": 1.0}, "stratify_by": "k"},
            list(range(10_001)),
            "/stratify_by",
            "more than 10,000 different values",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused(
    table_of: TableOf, rule: dict[str, Any], values: Any, pointer: str, detail: str
) -> None:
    with pytest.raises(Invalid, match=detail) as refused:
        assign(Splitting(**rule), table_of(k=values))
    assert refused.value.errors[0]["pointer"] == pointer


def test_shares_beyond_all_rows_are_refused() -> None:
    check_shares({"a": 0.1, "b": 0.2, "c": 0.7})
    with pytest.raises(Invalid, match=r"add up to 1\.1"):
        check_shares({"a": 0.8, "b": 0.3})
