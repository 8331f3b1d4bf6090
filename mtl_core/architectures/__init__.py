"""Models in a short form: the name of an architecture with its sizes, and outlines of the tasks that share it."""

from mtl_core.architectures.expansion import Architecture, expand
from mtl_core.architectures.outline import TaskOutline

__all__ = ["Architecture", "TaskOutline", "expand"]
