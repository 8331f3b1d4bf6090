"""Watched metrics: which logged values decide that one evaluation is better than another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtl_core.errors import TaskloomError

_FORM = "'task/dataset/split/metric:mode', where mode is 'min' or 'max'"
_MODES = ("min", "max")
_SHOWN = 20
_MAX_WILDCARDS = 2


@dataclass(frozen=True)
class _Pattern:
    """A score key of four parts, any of which may hold ``*`` for any text without a slash."""

    task: str
    rest: str
    regex: re.Pattern[str]

    def for_task(self, name: str) -> _Pattern:
        """Return the pattern read for one task, whose name is taken as it is."""
        return _Pattern(name, self.rest, re.compile(f"{re.escape(name)}/{_as_regex(self.rest)}"))

    def __str__(self) -> str:
        return f"{self.task}/{self.rest}"


@dataclass(frozen=True)
class WatchedMetric:
    """One or several score keys and whether less or more of their mean is better.

    Any of a key's four parts may hold ``*``, which stands for any text; in the place of the task it stands for tasks
    (and other label sets) alone, so that ``*/*/valid/loss`` does not count ``model/all/valid/loss`` in.

    Attributes:
        name: The keys without the mode, joined by ``+``.
        mode: ``"min"`` or ``"max"``.

    Example:
        >>> watched = WatchedMetric.parse("*/shapes/valid/accuracy:max")
        >>> watched.value({"circle/shapes/valid/accuracy": 0.5, "square/shapes/valid/accuracy": 1.0})
        0.75
        >>> watched.better(0.75, 0.7)
        True
    """

    name: str
    mode: str
    patterns: tuple[_Pattern, ...]

    @classmethod
    def parse(cls, metric: str | Sequence[str]) -> WatchedMetric:
        """Read ``task/dataset/split/metric:mode``, or a list of such keys of one mode.

        Raises:
            TaskloomError: If there is no key, a key has another form, or the modes differ.
        """
        entries = [metric] if isinstance(metric, str) else list(metric)
        if not entries:
            raise TaskloomError(f"a watched metric needs at least one key of the form {_FORM}")
        parsed = [_split(entry) for entry in entries]
        modes = {mode for _, mode in parsed}
        if len(modes) > 1:
            raise TaskloomError(f"the metrics {entries} have no mean to watch: some are 'min', others 'max'")
        keys = [key for key, _ in parsed]
        return cls("+".join(keys), modes.pop(), tuple(map(_pattern, keys)))

    def matches(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that are meant, sorted.

        Raises:
            TaskloomError: If a key of the watched metric meets none of them; names those that there are.
        """
        known = sorted(set(keys))
        met: set[str] = set()
        for pattern in self.patterns:
            mine = [key for key in known if pattern.regex.fullmatch(key)]
            if not mine:
                shown = ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
                raise TaskloomError(
                    f"no metric '{pattern}' is logged; those logged are: {shown or 'none at all'}"
                )
            met.update(mine)
        return sorted(met)

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return the mean of the values that are meant; None where one of them is NaN.

        Raises:
            TaskloomError: If there is no such value; names the keys that there are.
        """
        keys = self.matches(metrics)
        mean = sum(metrics[key] for key in keys) / len(keys)
        return None if math.isnan(mean) else mean

    def better(self, new: float | None, old: float | None, min_delta: float = 0.0) -> bool:
        """Say whether ``new`` is better than ``old`` by more than ``min_delta``.

        None, a value that is not known, is never better; whatever is known is better than it.
        """
        if new is None or old is None:
            return new is not None
        return new < old - min_delta if self.mode == "min" else new > old + min_delta

    def for_task(self, task: str) -> WatchedMetric | None:
        """Return what concerns one task alone: keys that name it, and keys with ``*`` in the task's place read for it.

        Returns:
            None where no key concerns the task.
        """
        mine = [p.for_task(task) for p in self.patterns if re.fullmatch(_as_regex(p.task), task)]
        return WatchedMetric("+".join(map(str, mine)), self.mode, tuple(mine)) if mine else None

    def __str__(self) -> str:
        return f"{self.name}:{self.mode}"


def _split(entry: str) -> tuple[str, str]:
    # From the right, because the names of slices hold colons themselves.
    key, colon, mode = entry.rpartition(":")
    if not colon:
        raise TaskloomError(f"a watched metric has the form {_FORM}, not '{entry}'")
    if mode not in _MODES:
        raise TaskloomError(f"unrecognized metric mode '{mode}' of '{entry}': it must be 'min' or 'max'")
    if key.count("/") != 3:
        raise TaskloomError(f"a watched metric has the form {_FORM}, not '{entry}'")
    # Each further one multiplies the time that a search for it can take.
    if any(part.count("*") > _MAX_WILDCARDS for part in key.split("/")):
        raise TaskloomError(f"a part of '{entry}' has more than {_MAX_WILDCARDS} '*'")
    return key, mode


def _pattern(key: str) -> _Pattern:
    task, _, rest = key.partition("/")
    # What is logged under model/all sums tasks up: it is none of them.
    tasks_only = r"(?!model/all/)" if "*" in task else ""
    return _Pattern(task, rest, re.compile(tasks_only + _as_regex(key)))


def _as_regex(text: str) -> str:
    return re.escape(text).replace(r"\*", "[^/]*")
