"""What a metric is, and what several of them ask of their arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_core.errors import TaskloomError, first_line

Array = NDArray[Any]
MetricFunction = Callable[[Array, Array, Array], float | Mapping[str, float]]
"""``(golds, preds, probs)`` → a number, or several by name."""


class UndefinedMetricError(TaskloomError):
    """A metric has no value on these labels; the message says why."""


class Metric:
    """A metric ``(golds, preds, probs) → float``.

    Attributes:
        inputs: Which of the three it looks at; the others may be missing.
        of_classes: Whether it is about classes, which are whole numbers, rather than values.
        leaves_out: Whether examples without a label and abstaining predictions are to be left out before it is called.
        higher_is_better: Whether more of it is better; None where neither more nor less is better for it alone.
    """

    inputs: tuple[Literal["golds", "preds", "probs"], ...] = ("golds", "preds")
    of_classes = True
    leaves_out = True
    higher_is_better: bool | None = True

    def __call__(self, golds: Array, preds: Array, probs: Array) -> float:
        """Return the metric's value.

        Raises:
            UndefinedMetricError: If it has none on these labels.
        """
        raise NotImplementedError


def check_inputs(name: str, metric: Metric, arrays: Mapping[str, Array | None]) -> None:
    """Refuse to compute a metric without what it looks at.

    Args:
        name: The metric's name.
        metric: The metric.
        arrays: ``golds``, ``preds`` and ``probs``; None where missing.

    Raises:
        TaskloomError: If one that it needs is missing.
    """
    if missing := [kind for kind in metric.inputs if arrays[kind] is None]:
        raise TaskloomError(f"metric '{name}' needs {' and '.join(missing)}")


def given(golds: Array) -> Array:
    """Say which labels are not missing."""
    return golds == golds  # noqa: PLR0124 NaN alone differs from itself, and integers have none.


def check_same_shape(golds: Array, preds: Array) -> None:
    """Refuse predictions of another shape than the labels."""
    if golds.shape != preds.shape:
        raise UndefinedMetricError(
            f"predictions of shape {list(preds.shape)} do not match labels of {list(golds.shape)}"
        )


def ratio(numerator: float, denominator: float) -> float:
    """Return a quotient, or 0 where there is nothing to divide by."""
    return float(numerator / denominator) if denominator else 0.0


def columns(golds: Array, values: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the labels given of each column of ``golds [n, k]``, or of ``[n]``, that has any, with their values."""
    check_same_shape(golds, values)
    for column, beside in zip(
        golds.reshape(len(golds), -1).T, values.reshape(len(values), -1).T, strict=True
    ):
        known = given(column)
        if known.any():
            yield column[known], beside[known]


def mean_ranks(values: Array) -> Array:
    """Return the rank of each value ``[n]``, from 1 up; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def through_torchmetrics(call: Callable[[Any], torch.Tensor], name: str) -> float:
    """Return what one of torchmetrics' functions answers.

    Args:
        call: Takes the module ``torchmetrics.functional``, calls the function and returns its answer, a scalar.
        name: The metric's name, for messages.

    Raises:
        UndefinedMetricError: If the function refuses its arrays or answers NaN.
    """
    # Importing it takes seconds, which only who asks for such a metric should wait.
    from torchmetrics import functional  # noqa: PLC0415

    try:
        value = float(call(functional))
    except (ValueError, RuntimeError) as error:
        raise UndefinedMetricError(f"{name}: {first_line(error)}") from error
    if value != value:  # noqa: PLR0124 NaN alone differs from itself.
        raise UndefinedMetricError(f"{name} has no value on these labels and predictions")
    return value
