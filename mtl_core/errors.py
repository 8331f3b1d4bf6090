"""The errors that ``mtl_core`` raises, one tree under ``TaskloomError``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

_MAX_KNOWN = 20

MODULE_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)
"""What a torch module may raise when it is built or called with arguments or inputs that do not suit it."""


class TaskloomError(ValueError):
    """Something the caller asked for cannot be done; the message says what and where."""


class TrainingStoppedError(TaskloomError):
    """A training was stopped between two steps because its listener wanted that."""


class ModuleConflictError(TaskloomError):
    """Two tasks declare one module name with different architectures."""

    def __init__(self, module_name: str, first_task: str, second_task: str, difference: str) -> None:
        super().__init__(
            f"module '{module_name}' is declared differently by tasks '{first_task}' and '{second_task}'"
            f" ({difference}): modules are shared by name, so give one of them another name"
        )
        self.module_name = module_name
        self.first_task = first_task
        self.second_task = second_task


class OperationError(TaskloomError):
    """An operation of a task failed to run on its inputs."""

    def __init__(self, task_name: str, op_name: str, module_name: str, reason: str) -> None:
        super().__init__(
            f"task '{task_name}': operation '{op_name}' (module '{module_name}') failed: {reason}"
        )
        self.task_name = task_name
        self.op_name = op_name
        self.reason = reason


class ExportError(TaskloomError):
    """A model cannot be written in a form that is wanted; says which task and operation, where it is one's fault."""

    def __init__(self, reason: str, task_name: str | None = None, op_name: str | None = None) -> None:
        where = "" if task_name is None else f"task '{task_name}'"
        where += "" if op_name is None else f": operation '{op_name}'"
        super().__init__(f"{where}: {reason}" if where else reason)
        self.task_name = task_name
        self.op_name = op_name
        self.reason = reason


class BundleError(TaskloomError):
    """A bundle of specs and weights is not what it should be; says which of its files, and what is wrong there."""


class LossError(TaskloomError):
    """A task's loss function failed on the task's outputs and labels."""

    def __init__(self, task_name: str, reason: str) -> None:
        super().__init__(f"task '{task_name}': its loss failed: {reason}")
        self.task_name = task_name
        self.reason = reason


class NonFiniteLossError(TaskloomError):
    """A task's loss, or the gradient of it, became NaN or infinite while training.

    Epochs, batches in their epoch and steps of the training are counted from 0.
    """

    def __init__(
        self,
        task_name: str,
        dataset: str,
        epoch: int,
        step: int,
        value: float,
        batch: int,
        what: str,
    ) -> None:
        super().__init__(
            f"the {what} of task '{task_name}' is {value} on batch {batch} of dataset '{dataset}'"
            f" at epoch {epoch}, step {step}: lower the learning rate, clip gradients or check the inputs"
        )
        self.task_name = task_name
        self.dataset = dataset
        self.epoch = epoch
        self.step = step
        self.value = value
        self.batch = batch
        self.what = what


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a spec: where (a JSON Pointer, RFC 6901, into the spec) and what."""

    pointer: str
    detail: str


class SpecError(TaskloomError):
    """A JSON spec is well-formed but cannot become a task; carries every fault found."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.pointer or '/'}: {fault.detail}" for fault in faults))
        self.faults = faults

    @classmethod
    def at(cls, pointer: str, detail: str) -> SpecError:
        """Return the error for a single fault."""
        return cls([Fault(pointer, detail)])

    def under(self, prefix: str) -> SpecError:
        """Return the same error with every pointer moved below ``prefix``."""
        return SpecError([Fault(prefix + fault.pointer, fault.detail) for fault in self.faults])


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def suggestion(name: str, known: Collection[str]) -> str:
    """Say what a name that is not known may be meant for: those most like it, or all where none is.

    Example:
        >>> suggestion("sgdd", ["adam", "sgd"])
        'did you mean sgd?'
    """
    close = get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(known) > _MAX_KNOWN:
        return f"there are {len(known)} to choose from"
    return f"known: {', '.join(sorted(known))}"


def pointer_to(*parts: str | int) -> str:
    """Join ``parts`` to a JSON Pointer, escaped as RFC 6901 asks.

    Example:
        >>> pointer_to("module_pool", "a/b", 0)
        '/module_pool/a~1b/0'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
