"""How many CPU cores a process may use: fewer than the machine has, where it is pinned or has a quota."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS) -> int:
    """Return how many cores this process may use, at least 1.

    The least of what the machine has, what the process is pinned to, and the whole cores that its control group's CPU
    quota comes to; a thread more than the quota only has all of them throttled.

    Args:
        cgroups: Where Linux shows the control group; default: where it is mounted in a container.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min((cores, *_quotas(cgroups))))


def _quotas(cgroups: Path) -> Iterable[int]:
    """Yield the quota in whole cores, as either version of control groups tells it."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except OSError:
        try:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return
    if quota != "max" and int(quota) > 0:
        yield int(quota) // int(period)
