"""Taskloom's core: multi-task models as paths through one network of modules shared by name.

Tensors in, tensors out: this package knows no HTTP, no database and nothing of the service around it.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtl_core.calibration.calibrating import CalibratedTask, Calibration, ProbabilityScores, calibrate
    from mtl_core.calibration.specs import calibrated_spec, calibration_obstacle
    from mtl_core.calibration.temperatures import fit_temperatures
    from mtl_core.data import DictDataLoader, DictDataset, collate_dicts
    from mtl_core.errors import (
        BundleError,
        ExportError,
        LossError,
        ModuleConflictError,
        NonFiniteLossError,
        OperationError,
        SpecError,
        TaskloomError,
        TrainingStoppedError,
    )
    from mtl_core.export.bundle import Bundle, read_bundle, write_bundle
    from mtl_core.export.left_out import what_is_left_out
    from mtl_core.export.onnx import OnnxCheck, check_onnx, export_onnx
    from mtl_core.export.preprocessing import write_beside
    from mtl_core.export.program import export_program, save_program
    from mtl_core.export.served import ServedTasks
    from mtl_core.losses import cross_entropy_with_probs
    from mtl_core.mapped import ArrayWriter, MappedDataset
    from mtl_core.model.classifier import MultitaskClassifier
    from mtl_core.model.devices import ClassifierConfig
    from mtl_core.model.output_dict import AmbiguousOutputError, OutputDict
    from mtl_core.model.paths import TaskPaths
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
    from mtl_core.training.snapshots import SnapshotFolder, Snapshots
    from mtl_core.training.trainer import Trainer

__all__ = [
    "AmbiguousOutputError",
    "ArrayWriter",
    "Bundle",
    "BundleError",
    "CalibratedTask",
    "Calibration",
    "Checkpointer",
    "CheckpointerConfig",
    "ClassifierConfig",
    "DictDataLoader",
    "DictDataset",
    "ExportError",
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
    "OnnxCheck",
    "Operation",
    "OperationError",
    "OutputDict",
    "PandasSFApplier",
    "ProbabilityScores",
    "Progress",
    "SFApplier",
    "Scheduler",
    "Score",
    "Scorer",
    "SequentialScheduler",
    "ServedTasks",
    "ShuffledScheduler",
    "SliceAwareClassifier",
    "SliceCombinerModule",
    "SlicingFunction",
    "SnapshotFolder",
    "Snapshots",
    "SpecError",
    "Task",
    "TaskPaths",
    "TaskloomError",
    "TensorBoardWriter",
    "Trainer",
    "TrainerConfig",
    "TrainingStoppedError",
    "add_slice_labels",
    "calibrate",
    "calibrated_spec",
    "calibration_obstacle",
    "check_onnx",
    "collate_dicts",
    "convert_to_slice_tasks",
    "cross_entropy_with_probs",
    "export_onnx",
    "export_program",
    "filter_labels",
    "fit_temperatures",
    "get_label_buckets",
    "get_label_instances",
    "load_module_weights",
    "metric_score",
    "metrics_dict_to_dataframe",
    "module_weights",
    "preds_to_probs",
    "probs_to_preds",
    "read_bundle",
    "save_program",
    "slice_dataframe",
    "slicing_function",
    "to_int_label_array",
    "what_is_left_out",
    "write_beside",
    "write_bundle",
]

# Where each public name is at home. A module is imported when one of its names is first asked for: so what needs no
# torch, such as specs and errors, comes without the seconds that torch takes.
_HOMES = {
    "mtl_core.calibration.calibrating": (
        "CalibratedTask",
        "Calibration",
        "ProbabilityScores",
        "calibrate",
    ),
    "mtl_core.calibration.specs": (
        "calibrated_spec",
        "calibration_obstacle",
    ),
    "mtl_core.calibration.temperatures": ("fit_temperatures",),
    "mtl_core.data": (
        "DictDataLoader",
        "DictDataset",
        "collate_dicts",
    ),
    "mtl_core.errors": (
        "BundleError",
        "ExportError",
        "LossError",
        "ModuleConflictError",
        "NonFiniteLossError",
        "OperationError",
        "SpecError",
        "TaskloomError",
        "TrainingStoppedError",
    ),
    "mtl_core.export.bundle": (
        "Bundle",
        "read_bundle",
        "write_bundle",
    ),
    "mtl_core.export.left_out": ("what_is_left_out",),
    "mtl_core.export.onnx": (
        "OnnxCheck",
        "check_onnx",
        "export_onnx",
    ),
    "mtl_core.export.preprocessing": ("write_beside",),
    "mtl_core.export.program": (
        "export_program",
        "save_program",
    ),
    "mtl_core.export.served": ("ServedTasks",),
    "mtl_core.losses": ("cross_entropy_with_probs",),
    "mtl_core.mapped": (
        "ArrayWriter",
        "MappedDataset",
    ),
    "mtl_core.model.classifier": ("MultitaskClassifier",),
    "mtl_core.model.paths": ("TaskPaths",),
    "mtl_core.model.devices": ("ClassifierConfig",),
    "mtl_core.model.output_dict": (
        "AmbiguousOutputError",
        "OutputDict",
    ),
    "mtl_core.model.weights": (
        "load_module_weights",
        "module_weights",
    ),
    "mtl_core.scoring.dataframes": ("metrics_dict_to_dataframe",),
    "mtl_core.scoring.error_analysis": (
        "get_label_buckets",
        "get_label_instances",
    ),
    "mtl_core.scoring.labels": (
        "filter_labels",
        "preds_to_probs",
        "probs_to_preds",
        "to_int_label_array",
    ),
    "mtl_core.scoring.metric_score": ("metric_score",),
    "mtl_core.scoring.scorer": (
        "Score",
        "Scorer",
    ),
    "mtl_core.slicing": (
        "PandasSFApplier",
        "SFApplier",
        "SliceAwareClassifier",
        "SliceCombinerModule",
        "SlicingFunction",
        "add_slice_labels",
        "convert_to_slice_tasks",
        "slice_dataframe",
        "slicing_function",
    ),
    "mtl_core.task": (
        "Operation",
        "Task",
    ),
    "mtl_core.training.batch_schedules": (
        "Scheduler",
        "SequentialScheduler",
        "ShuffledScheduler",
    ),
    "mtl_core.training.checkpointer": ("Checkpointer",),
    "mtl_core.training.config": (
        "CheckpointerConfig",
        "LogManagerConfig",
        "LogWriterConfig",
        "TrainerConfig",
    ),
    "mtl_core.training.log_manager": ("LogManager",),
    "mtl_core.training.log_writers": (
        "LogWriter",
        "TensorBoardWriter",
    ),
    "mtl_core.training.progress": (
        "FitListener",
        "Progress",
    ),
    "mtl_core.training.snapshots": (
        "SnapshotFolder",
        "Snapshots",
    ),
    "mtl_core.training.trainer": ("Trainer",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

# Type checkers take the imports above, and so find a name that does not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name from its home when it is first asked for (PEP 562)."""
        if name not in _HOME_OF:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        # The collector looks through the hundreds of thousands of objects that torch makes again and again, and finds
        # nothing: a fifth of the time.
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
        finally:
            if is_collecting:
                gc.enable()
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
