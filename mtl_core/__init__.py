"""Taskloom's core: multi-task models as paths through one network of modules shared by name.

Tensors in, tensors out: this package knows no HTTP, no database and nothing of the service around it.
"""

from mtl_core.classifier import MultitaskClassifier
from mtl_core.data import DictDataLoader, DictDataset
from mtl_core.errors import (
    LossError,
    ModuleConflictError,
    NonFiniteLossError,
    OperationError,
    SpecError,
    TaskloomError,
)
from mtl_core.mapped import ArrayWriter, MappedDataset
from mtl_core.scorer import Score, Scorer
from mtl_core.task import Operation, Task
from mtl_core.training.batch_schedules import SequentialScheduler, ShuffledScheduler
from mtl_core.training.config import TrainerConfig
from mtl_core.training.trainer import FitListener, Progress, Trainer
from mtl_core.weights import load_module_weights, module_weights

__all__ = [
    "ArrayWriter",
    "DictDataLoader",
    "DictDataset",
    "FitListener",
    "LossError",
    "MappedDataset",
    "ModuleConflictError",
    "MultitaskClassifier",
    "NonFiniteLossError",
    "Operation",
    "OperationError",
    "Progress",
    "Score",
    "Scorer",
    "SequentialScheduler",
    "ShuffledScheduler",
    "SpecError",
    "Task",
    "TaskloomError",
    "Trainer",
    "TrainerConfig",
    "load_module_weights",
    "module_weights",
]
