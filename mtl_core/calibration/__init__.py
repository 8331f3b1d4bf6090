"""Calibration: a trained task's probabilities made as sure as they are right, on labels that it was not trained on.

Logits are divided by temperatures that are fitted when all else is trained. A calibrated task is a task like any other,
whose path ends in one more module.

Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017,
https://arxiv.org/abs/1706.04599.
"""

from mtl_core.calibration.calibrating import (
    CalibratedTask,
    Calibration,
    ProbabilityScores,
    calibrate,
)
from mtl_core.calibration.specs import calibrated_spec, calibration_obstacle
from mtl_core.calibration.temperatures import fit_temperatures

__all__ = [
    "CalibratedTask",
    "Calibration",
    "ProbabilityScores",
    "calibrate",
    "calibrated_spec",
    "calibration_obstacle",
    "fit_temperatures",
]
