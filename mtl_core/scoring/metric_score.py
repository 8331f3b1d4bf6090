"""One metric of one set of predictions, without a scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from mtl_core.scoring.labels import filter_labels, to_int_label_array
from mtl_core.scoring.metrics import METRICS, Array, UndefinedMetricError, check_inputs


def metric_score(
    golds: Array | None = None,
    preds: Array | None = None,
    probs: Array | None = None,
    metric: str = "accuracy",
    filter_dict: Mapping[str, Sequence[int]] | None = None,
    **kwargs: Any,
) -> float:
    """Return one metric of predictions that are one class, or value, an example.

    Args:
        golds: Labels ``[n]`` or ``[n, 1]``; default: none, for metrics that need none.
        preds: Predictions ``[n]`` or ``[n, 1]``; default: none.
        probs: Probabilities ``[n, k]``; default: none.
        metric: The metric's name; default ``"accuracy"``.
        filter_dict: For ``"golds"`` or ``"preds"``, the labels whose examples are left out; default: none.
        **kwargs: The metric's own arguments: ``beta``, ``pos_label`` …

    Raises:
        UndefinedMetricError: If the metric has no value on these labels.
        TaskloomError: If the metric or one of its arguments is unknown, what it needs is missing, or labels of classes
            are no whole numbers.

    Example:
        >>> golds, preds = np.array([0, 1, -1, 1]), np.array([0, 1, 1, 0])
        >>> metric_score(golds, preds, metric="recall", filter_dict={"golds": [-1]})
        0.5
    """
    function = METRICS.build({"type": metric, **kwargs})
    given: dict[str, Array | None] = {"golds": golds, "preds": preds, "probs": probs}
    arrays = {name: None if array is None else np.asarray(array) for name, array in given.items()}
    check_inputs(metric, function, arrays)
    if function.of_classes:
        labels = {name: arrays[name] for name in ("golds", "preds")}
        arrays |= {name: None if one is None else to_int_label_array(one) for name, one in labels.items()}
    left = cast("dict[str, Array]", filter_labels(arrays, filter_dict or {}))
    if not len(left[function.inputs[0]]):
        raise UndefinedMetricError(f"{metric} has no value: no example is left")
    return function(**left)
