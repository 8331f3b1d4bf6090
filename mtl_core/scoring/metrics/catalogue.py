"""The metrics that a spec may name."""

from __future__ import annotations

from mtl_core.catalogue import Catalogue
from mtl_core.scoring.metrics.metric import Metric
from mtl_core.scoring.metrics.predictions import (
    F1,
    Accuracy,
    BalancedAccuracy,
    CohenKappa,
    Coverage,
    FBeta,
    HammingLoss,
    Jaccard,
    MacroF1,
    MatthewsCorrelation,
    MicroF1,
    Precision,
    Recall,
)
from mtl_core.scoring.metrics.probabilities import (
    AveragePrecision,
    CalibrationError,
    ClasswiseCalibrationError,
    LogLoss,
    RocAuc,
    RocAucOneVersusRest,
    TopK,
)
from mtl_core.scoring.metrics.quantiles import IntervalCoverage, MeanPinball
from mtl_core.scoring.metrics.ranking import NormalizedDiscountedGain
from mtl_core.scoring.metrics.values import (
    R2,
    ExplainedVariance,
    MeanAbsolute,
    MeanAbsolutePercentage,
    MeanSquared,
    Pearson,
    PoissonDeviance,
    RootMeanSquared,
    Spearman,
    SymmetricMeanAbsolutePercentage,
)

METRICS: Catalogue[Metric] = Catalogue(
    "metric",
    {
        "accuracy": Accuracy,
        "average_precision": AveragePrecision,
        "balanced_accuracy": BalancedAccuracy,
        "calibration_error": CalibrationError,
        "classwise_calibration_error": ClasswiseCalibrationError,
        "cohen_kappa": CohenKappa,
        "coverage": Coverage,
        "explained_variance": ExplainedVariance,
        "precision": Precision,
        "recall": Recall,
        "f1": F1,
        "f1_macro": MacroF1,
        "f1_micro": MicroF1,
        "fbeta": FBeta,
        "hamming_loss": HammingLoss,
        "interval_coverage": IntervalCoverage,
        "jaccard": Jaccard,
        "log_loss": LogLoss,
        "mae": MeanAbsolute,
        "mape": MeanAbsolutePercentage,
        "matthews_corrcoef": MatthewsCorrelation,
        "mse": MeanSquared,
        "ndcg": NormalizedDiscountedGain,
        "pearson": Pearson,
        "pinball": MeanPinball,
        "poisson_deviance": PoissonDeviance,
        "r2": R2,
        "rmse": RootMeanSquared,
        "roc_auc": RocAuc,
        "roc_auc_ovr": RocAucOneVersusRest,
        "smape": SymmetricMeanAbsolutePercentage,
        "spearman": Spearman,
        "top_k": TopK,
    },
)
