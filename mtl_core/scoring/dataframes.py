"""Scores as a table. pandas is needed here alone, and only when a table is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mtl_core.errors import TaskloomError


def import_pandas() -> Any:
    """Return the module ``pandas``.

    Raises:
        TaskloomError: If it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise TaskloomError(
            "as_dataframe=True needs pandas, which is not installed: pip install pandas"
        ) from error


def metrics_dict_to_dataframe(metrics_dict: Mapping[str, float]) -> Any:
    """Return scores by flat key as a pandas ``DataFrame``, one row each.

    Args:
        metrics_dict: Value by ``label/dataset/split/metric``.

    Returns:
        A frame of the columns ``label``, ``dataset``, ``split``, ``metric`` and ``score``.

    Raises:
        TaskloomError: If a key has other than four parts, or pandas is not installed.

    Example:
        >>> metrics_dict_to_dataframe({"night/street/test/f1": 0.5}).to_dict("records")
        [{'label': 'night', 'dataset': 'street', 'split': 'test', 'metric': 'f1', 'score': 0.5}]
    """
    rows: list[tuple[Any, ...]] = []
    for key, value in metrics_dict.items():
        parts = key.split("/")
        if len(parts) != 4:
            raise TaskloomError(f"'{key}' is no score's key: those are label/dataset/split/metric")
        rows.append((*parts, value))
    return import_pandas().DataFrame(rows, columns=["label", "dataset", "split", "metric", "score"])
