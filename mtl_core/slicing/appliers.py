"""Slicing functions applied to many data points: a column for each slice."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from tqdm import tqdm

from mtl_core.data import UNLABELLED
from mtl_core.errors import TaskloomError
from mtl_core.slicing.functions import SlicingFunction

S = np.recarray[Any, Any]
"""A record for each data point, an int64 column for each slice: 1 in it, 0 outside, -1 where that is unknown."""


class ApplierMetadata(NamedTuple):
    """What happened while slicing functions were applied."""

    faults: dict[str, int]
    """On how many points each slicing function failed, by its name; those that never failed are left out."""


class _Applier:
    """What both appliers do, each with its own kind of data points."""

    def __init__(self, lfs: Sequence[SlicingFunction]) -> None:
        names = [sf.name for sf in lfs]
        if not names or len(set(names)) < len(names):
            raise TaskloomError(
                f"slicing functions need names of their own, and there must be one at least: {names}"
            )
        self._sfs = list(lfs)

    def _apply(
        self, rows: Iterable[Any], n: int, progress_bar: bool, fault_tolerant: bool, return_meta: bool
    ) -> S | tuple[S, ApplierMetadata]:
        answers = np.recarray((n,), dtype=[(sf.name, np.int64) for sf in self._sfs])
        faults: dict[str, int] = {}
        for i, x in enumerate(tqdm(rows, total=n, disable=not progress_bar)):
            for sf in self._sfs:
                answers[sf.name][i] = self._answer(sf, x, faults if fault_tolerant else None)
        if return_meta:
            return answers, ApplierMetadata(faults)
        if faults:
            warnings.warn(f"slicing functions failed on some points (-1 there): {faults}", stacklevel=3)
        return answers

    def _answer(self, sf: SlicingFunction, x: Any, faults: dict[str, int] | None) -> int:
        try:
            answer = sf(x)
        except Exception:
            if faults is None:
                raise
            faults[sf.name] = faults.get(sf.name, 0) + 1
            return UNLABELLED
        if answer not in (0, 1, UNLABELLED):
            raise TaskloomError(
                f"slicing function '{sf.name}' answered {answer!r}, not a boolean, 0, 1 or -1"
            )
        return int(answer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}, SFs: {[sf.name for sf in self._sfs]}"


class SFApplier(_Applier):
    """Applies slicing functions to a list of data points, or to the rows of an array.

    Args:
        lfs: The slicing functions, each with a name of its own.

    Raises:
        TaskloomError: If there are none, or two have one name.

    Example:
        >>> from mtl_core.slicing import slicing_function
        >>> @slicing_function()
        ... def large(x):
        ...     return x > 42
        >>> SFApplier([large]).apply([10, 100], progress_bar=False)["large"].tolist()
        [0, 1]
    """

    @overload
    def apply(
        self,
        data_points: Any,
        progress_bar: bool = ...,
        fault_tolerant: bool = ...,
        return_meta: Literal[False] = ...,
    ) -> S: ...

    @overload
    def apply(
        self,
        data_points: Any,
        progress_bar: bool = ...,
        fault_tolerant: bool = ...,
        *,
        return_meta: Literal[True],
    ) -> tuple[S, ApplierMetadata]: ...

    def apply(
        self,
        data_points: Any,
        progress_bar: bool = True,
        fault_tolerant: bool = False,
        return_meta: bool = False,
    ) -> S | tuple[S, ApplierMetadata]:
        """Say for every data point which slices it is in.

        Args:
            data_points: Any sequence or array of them.
            progress_bar: Whether to draw a progress bar on standard error; default: yes.
            fault_tolerant: Whether a function that fails on a point counts as unknown there (-1), rather than ending
                everything; default: no. Failures are counted and, where no metadata is asked for, warned of.
            return_meta: Whether to answer an :class:`ApplierMetadata` too; default: no.

        Returns:
            A record array ``[n]`` with an int64 column for each slice.

        Raises:
            TaskloomError: If a function answers something else than a boolean, 0, 1 or -1.
        """
        return self._apply(data_points, len(data_points), progress_bar, fault_tolerant, return_meta)


class PandasSFApplier(_Applier):
    """Applies slicing functions to the rows of a pandas ``DataFrame``, each a ``Series``.

    Args:
        lfs: The slicing functions, each with a name of its own.

    Raises:
        TaskloomError: If there are none, or two have one name.
    """

    @overload
    def apply(
        self, df: Any, progress_bar: bool = ..., fault_tolerant: bool = ..., return_meta: Literal[False] = ...
    ) -> S: ...

    @overload
    def apply(
        self, df: Any, progress_bar: bool = ..., fault_tolerant: bool = ..., *, return_meta: Literal[True]
    ) -> tuple[S, ApplierMetadata]: ...

    def apply(
        self, df: Any, progress_bar: bool = True, fault_tolerant: bool = False, return_meta: bool = False
    ) -> S | tuple[S, ApplierMetadata]:
        """Say for every row which slices it is in; all else is as in :meth:`SFApplier.apply`."""
        rows = (row for _, row in df.iterrows())
        return self._apply(rows, len(df), progress_bar, fault_tolerant, return_meta)


def slice_dataframe(df: Any, slicing_function: SlicingFunction) -> Any:
    """Return the rows of a pandas ``DataFrame`` that are in a slice, in their order and with their index."""
    answers = PandasSFApplier([slicing_function]).apply(df)
    return df.iloc[np.flatnonzero(answers[slicing_function.name] == 1)]
