"""Which tasks can be calibrated, and how their specs look then."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mtl_core.errors import TaskloomError
from mtl_core.specs import CatalogueSpec, OperationSpec, TaskSpec

_TYPE: Final = "Temperature"
_MOST_OPERATIONS = _MOST_MODULES = 256
_LONGEST_NAME = 128


def calibration_obstacle(spec: TaskSpec) -> str | None:
    """Say why a task cannot be calibrated; None where it can.

    Example:
        >>> path = [{"module_name": "m", "inputs": [("_input_", "x")]}]
        >>> layer = {"type": "Linear", "in_features": 2, "out_features": 1}
        >>> spec = TaskSpec.model_validate(
        ...     {"name": "t", "kind": "count", "module_pool": {"m": layer}, "op_sequence": path}
        ... )
        >>> calibration_obstacle(spec)
        "its output function 'exp' is neither softmax nor sigmoid"
    """
    if (output := _type_of(spec.output)) not in {"softmax", "sigmoid"}:
        return f"its output function '{output}' is neither softmax nor sigmoid"
    if spec.slices:
        return "it has slices, which need its path to end in its head"
    pool, ops, _ = _uncalibrated(spec)
    if len(pool) >= _MOST_MODULES or len(ops) >= _MOST_OPERATIONS:
        return "it has as many modules or operations as a task may have"
    return None


def calibrated_spec(spec: TaskSpec, n_temperatures: int = 1, taken: Collection[str] = ()) -> TaskSpec:
    """Return the same task with a ``Temperature`` at the end of its path; one that is there already is replaced.

    Its module is named ``{task}_temperature``, unless something else has that name.

    Args:
        spec: The task.
        n_temperatures: 1 for all its logits, or one for each class or output; default 1.
        taken: Names of modules that other tasks of the model have; default: none.

    Raises:
        TaskloomError: If the task cannot be calibrated; see :func:`calibration_obstacle`.

    Example:
        >>> path = [{"module_name": "m", "inputs": [("_input_", "x")]}]
        >>> layer = {"type": "Linear", "in_features": 2, "out_features": 3}
        >>> spec = TaskSpec.model_validate({"name": "t", "module_pool": {"m": layer}, "op_sequence": path})
        >>> calibrated_spec(spec).module_pool["t_temperature"]
        {'type': 'Temperature', 'n_classes': 1}
    """
    if obstacle := calibration_obstacle(spec):
        raise TaskloomError(f"task '{spec.name}' cannot be calibrated: {obstacle}")
    pool, ops, end = _uncalibrated(spec)
    name = _free_name(spec.name, {*pool, *(op.op_name for op in ops), *taken})
    pool[name] = {"type": _TYPE, "n_classes": n_temperatures}
    ops.append(end.model_copy(update={"name": name, "module_name": name}))
    return spec.model_copy(update={"module_pool": pool, "op_sequence": ops})


def temperature_module(spec: TaskSpec) -> str | None:
    """Return the name of the ``Temperature`` that a task's path ends in; None where it ends in something else."""
    name = spec.op_sequence[-1].module_name
    return name if spec.module_pool[name].get("type") == _TYPE else None


def _uncalibrated(spec: TaskSpec) -> tuple[dict[str, dict[str, object]], list[OperationSpec], OperationSpec]:
    """Return a task's modules and operations without a temperature at the end, and the operation that would follow."""
    pool, ops = dict(spec.module_pool), list(spec.op_sequence)
    if (name := temperature_module(spec)) is None:
        return pool, ops, OperationSpec(module_name=ops[-1].module_name, inputs=[ops[-1].op_name])
    end = ops.pop()
    if all(op.module_name != name for op in ops):
        del pool[name]
    return pool, ops, end


def _free_name(task_name: str, used: Collection[str]) -> str:
    ends = ["_temperature", *(f"_temperature_{i}" for i in range(2, len(used) + 3))]
    names = (task_name[: _LONGEST_NAME - len(end)] + end for end in ends)
    return next(name for name in names if name not in used)


def _type_of(spec: CatalogueSpec) -> object:
    return spec if isinstance(spec, str) else spec.get("type")
