"""What Linux tells of memory; elsewhere nothing is known."""

from __future__ import annotations

import re
from pathlib import Path

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_HELD = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


def memory_of(pid: int | None) -> int:
    """Return the memory that a process holds, in MiB, without what it maps from files; 0 where that is not known."""
    return _found(_HELD, f"/proc/{pid}/status") // 1024


def oom_kills() -> int:
    """Return how many processes the system has ended because memory ran out; 0 where that is not known."""
    return _found(_COUNT, "/proc/vmstat")


def _found(pattern: re.Pattern[str], path: str) -> int:
    try:
        found = pattern.search(Path(path).read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0
