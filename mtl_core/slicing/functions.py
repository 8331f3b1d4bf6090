"""Slicing functions: Python functions that say whether a data point is in a slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from mtl_core.errors import TaskloomError

Preprocessor = Callable[[Any], Any]
"""A data point → the data point that the slicing function sees."""


class SlicingFunction:
    """A named function of a data point, with what it needs.

    Args:
        name: The slice's name.
        f: ``(data point, **resources) → bool or 0/1``: whether the point is in the slice; -1 where that is unknown.
        resources: What ``f`` gets beside the point, by argument name; default: nothing.
        pre: Applied to a copy of the point in turn before ``f`` sees it; default: none.
    """

    def __init__(
        self,
        name: str,
        f: Callable[..., Any],
        resources: Mapping[str, Any] | None = None,
        pre: Sequence[Preprocessor] | None = None,
    ) -> None:
        self.name = name
        self._f = f
        self._resources = dict(resources or {})
        self._pre = list(pre or [])

    def __call__(self, x: Any) -> Any:
        """Say whether a data point is in the slice.

        Raises:
            TaskloomError: If a preprocessor answers None.
        """
        if self._pre:
            # What a preprocessor sets on a point must not reach the caller's data, or the next slicing function.
            x = deepcopy(x)
        for preprocessor in self._pre:
            x = preprocessor(x)
            if x is None:
                raise TaskloomError(
                    f"slicing function '{self.name}': preprocessor {preprocessor!r} answered None"
                )
        return self._f(x, **self._resources)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.name}, Preprocessors: {self._pre}"


class slicing_function:  # noqa: N801 It is used as a decorator, and is named as the seed framework names it.
    """Makes a :class:`SlicingFunction` of the function that it decorates.

    Args:
        name: The slice's name; default: the function's.
        resources: What the function gets beside the data point, by argument name; default: nothing.
        pre: Applied to a copy of the point in turn before the function sees it; default: none.

    Raises:
        TaskloomError: If the decorator's parentheses are missing.

    Example:
        >>> @slicing_function()
        ... def short(x):
        ...     return len(x) < 4
        >>> short
        SlicingFunction short, Preprocessors: []
        >>> short("yes")
        True
    """

    def __init__(
        self,
        name: str | None = None,
        resources: Mapping[str, Any] | None = None,
        pre: Sequence[Preprocessor] | None = None,
    ) -> None:
        if callable(name):
            raise TaskloomError("slicing_function is missing parentheses: write @slicing_function()")
        self.name = name
        self.resources = resources
        self.pre = pre

    def __call__(self, f: Callable[..., Any]) -> SlicingFunction:
        """Return the function as a :class:`SlicingFunction`."""
        return SlicingFunction(self.name or f.__name__, f, self.resources, self.pre)
