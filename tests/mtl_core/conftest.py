"""What all tests of the core have in common."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """One thread, so that sums come out alike on any machine, and a known random state."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
