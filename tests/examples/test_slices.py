"""The example's claim, for fewer seeds than it prints by itself."""

from __future__ import annotations

import re

import pytest
import torch

from examples import slices


@pytest.mark.usefixtures("_one_thread")
def test_a_hard_slice_is_scored_higher_by_the_slice_aware_model(capsys: pytest.CaptureFixture[str]) -> None:
    results = slices.main(seeds=[0, 1])
    assert all(found.rises for found in results)
    assert sum(found.aware_slice - found.plain_slice for found in results) > 0.2 * len(results)
    said = capsys.readouterr().out
    assert re.findall(r"^seed (\d): F1 on the slice \d\.\d{3} → \d\.\d{3}, overall", said, re.MULTILINE) == [
        "0",
        "1",
    ]
    assert "rises in 2 of 2" in said


def test_one_point_in_ten_is_in_the_slice_and_no_test_point_is_trained_on() -> None:
    generator = torch.Generator().manual_seed(0)
    points, classes = slices.make_points(4000, generator)
    members = slices.in_disc(points)
    assert 0.08 < members.float().mean() < 0.12
    assert torch.equal(classes == 1, (points.sum(dim=1) > 0) ^ members)
    more, _ = slices.make_points(4000, generator)
    assert not set(map(tuple, points.tolist())) & set(map(tuple, more.tolist()))
