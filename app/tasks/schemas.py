"""Tasks as they travel over HTTP; what a client writes is :class:`mtl_core.specs.TaskSpec` itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.wire import Out, shown_as
from mtl_core.specs import TaskSpec

CIRCLE_TASK: dict[str, Any] = {
    "name": "circle_task",
    "module_pool": {
        "base_mlp": {
            "type": "Sequential",
            "layers": [
                {"type": "Linear", "in_features": 2, "out_features": 8},
                {"type": "ReLU"},
                {"type": "Linear", "in_features": 8, "out_features": 4},
                {"type": "ReLU"},
            ],
        },
        "circle_head_module": {"type": "Linear", "in_features": 4, "out_features": 2},
    },
    "op_sequence": [
        {"name": "base_mlp", "module_name": "base_mlp", "inputs": [["_input_", "circle_data"]]},
        {"name": "circle_head", "module_name": "circle_head_module", "inputs": ["base_mlp"]},
    ],
    "loss": "cross_entropy",
    "output": "softmax",
    "metrics": ["accuracy"],
}
"""The tutorial's first task, shown as the example in the API's documentation."""


_CIRCLE_OUT = CIRCLE_TASK | {
    "inputs": None,
    "parameters": {"base_mlp": 60, "circle_head_module": 10},
    "input_fields": {"circle_data": {"shape": [2], "dtype": "float32"}},
    "output_shape": [2],
    "created_at": "2026-01-02T03:04:05Z",
}


class InputField(Out):
    """A field that a task reads."""

    shape: list[int] | None
    """Shape of one example; null where only a dataset will tell."""
    dtype: str


class TaskOut(TaskSpec, extra="ignore", json_schema_extra=shown_as(_CIRCLE_OUT)):
    """A registered task, and what checking it found."""

    parameters: dict[str, int]
    """Numbers that each module holds."""
    input_fields: dict[str, InputField]
    output_shape: list[int] | None
    """Shape of the task's output for one example; null where an input's shape is not known yet."""
    created_at: datetime
