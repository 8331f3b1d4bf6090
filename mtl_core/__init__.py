"""Taskloom's core: multi-task models as paths through one network of modules shared by name.

Tensors in, tensors out: this package knows no HTTP, no database and nothing of the service around it.
"""

from mtl_core.data import DictDataLoader, DictDataset, collate_dicts
from mtl_core.errors import (
    LossError,
    ModuleConflictError,
    NonFiniteLossError,
    OperationError,
    SpecError,
    TaskloomError,
)
from mtl_core.losses import cross_entropy_with_probs
from mtl_core.mapped import ArrayWriter, MappedDataset
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.model.devices import ClassifierConfig
from mtl_core.model.output_dict import AmbiguousOutputError, OutputDict
from mtl_core.model.weights import load_module_weights, module_weights
from mtl_core.scoring.dataframes import metrics_dict_to_dataframe
from mtl_core.scoring.error_analysis import get_label_buckets, get_label_instances
from mtl_core.scoring.labels import filter_labels, preds_to_probs, probs_to_preds, to_int_label_array
from mtl_core.scoring.metric_score import metric_score
from mtl_core.scoring.scorer import Score, Scorer
from mtl_core.slicing import (
    PandasSFApplier,
    SFApplier,
    SliceAwareClassifier,
    SliceCombinerModule,
    SlicingFunction,
    add_slice_labels,
    convert_to_slice_tasks,
    slice_dataframe,
    slicing_function,
)
from mtl_core.task import Operation, Task
from mtl_core.training.batch_schedules import Scheduler, SequentialScheduler, ShuffledScheduler
from mtl_core.training.checkpointer import Checkpointer
from mtl_core.training.config import CheckpointerConfig, LogManagerConfig, LogWriterConfig, TrainerConfig
from mtl_core.training.log_manager import LogManager
from mtl_core.training.log_writers import LogWriter, TensorBoardWriter
from mtl_core.training.progress import FitListener, Progress
from mtl_core.training.trainer import Trainer

__all__ = [
    "AmbiguousOutputError",
    "ArrayWriter",
    "Checkpointer",
    "CheckpointerConfig",
    "ClassifierConfig",
    "DictDataLoader",
    "DictDataset",
    "FitListener",
    "LogManager",
    "LogManagerConfig",
    "LogWriter",
    "LogWriterConfig",
    "LossError",
    "MappedDataset",
    "ModuleConflictError",
    "MultitaskClassifier",
    "NonFiniteLossError",
    "Operation",
    "OperationError",
    "OutputDict",
    "PandasSFApplier",
    "Progress",
    "SFApplier",
    "Scheduler",
    "Score",
    "Scorer",
    "SequentialScheduler",
    "ShuffledScheduler",
    "SliceAwareClassifier",
    "SliceCombinerModule",
    "SlicingFunction",
    "SpecError",
    "Task",
    "TaskloomError",
    "TensorBoardWriter",
    "Trainer",
    "TrainerConfig",
    "add_slice_labels",
    "collate_dicts",
    "convert_to_slice_tasks",
    "cross_entropy_with_probs",
    "filter_labels",
    "get_label_buckets",
    "get_label_instances",
    "load_module_weights",
    "metric_score",
    "metrics_dict_to_dataframe",
    "module_weights",
    "preds_to_probs",
    "probs_to_preds",
    "slice_dataframe",
    "slicing_function",
    "to_int_label_array",
]
