"""The metrics that a spec may name."""

from __future__ import annotations

from mtl_core.catalogue import Catalogue
from mtl_core.scoring.metrics.metric import Metric
from mtl_core.scoring.metrics.predictions import (
    F1,
    Accuracy,
    BalancedAccuracy,
    Coverage,
    FBeta,
    MacroF1,
    MatthewsCorrelation,
    MicroF1,
    Precision,
    Recall,
)
from mtl_core.scoring.metrics.probabilities import (
    AveragePrecision,
    LogLoss,
    RocAuc,
    RocAucOneVersusRest,
    TopK,
)
from mtl_core.scoring.metrics.values import R2, MeanAbsolute, MeanSquared

METRICS: Catalogue[Metric] = Catalogue(
    "metric",
    {
        "accuracy": Accuracy,
        "average_precision": AveragePrecision,
        "balanced_accuracy": BalancedAccuracy,
        "coverage": Coverage,
        "precision": Precision,
        "recall": Recall,
        "f1": F1,
        "f1_macro": MacroF1,
        "f1_micro": MicroF1,
        "fbeta": FBeta,
        "log_loss": LogLoss,
        "mae": MeanAbsolute,
        "matthews_corrcoef": MatthewsCorrelation,
        "mse": MeanSquared,
        "r2": R2,
        "roc_auc": RocAuc,
        "roc_auc_ovr": RocAucOneVersusRest,
        "top_k": TopK,
    },
)
