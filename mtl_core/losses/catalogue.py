"""The losses that a spec may name."""

from __future__ import annotations

from mtl_core.catalogue import Catalogue
from mtl_core.losses.binary import BinaryCrossEntropy, BinaryFocal
from mtl_core.losses.classes import CrossEntropy, Focal
from mtl_core.losses.loss import Loss
from mtl_core.losses.ordinal import Corn
from mtl_core.losses.ranking import RankNet
from mtl_core.losses.values import Huber, MeanAbsoluteError, MeanSquaredError, Pinball, Poisson

LOSSES: Catalogue[Loss] = Catalogue(
    "loss",
    {
        "cross_entropy": CrossEntropy,
        "focal": Focal,
        "binary_cross_entropy": BinaryCrossEntropy,
        "binary_focal": BinaryFocal,
        "corn": Corn,
        "mse": MeanSquaredError,
        "mae": MeanAbsoluteError,
        "huber": Huber,
        "pinball": Pinball,
        "poisson": Poisson,
        "ranknet": RankNet,
    },
)
