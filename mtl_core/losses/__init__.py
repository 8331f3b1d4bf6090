"""Loss functions by name: ``(outputs, labels, weights) → scalar``, averaged over the labels given.

Examples without any label are left out before a loss is called; of an example with several labels, those that
are -1 (or NaN) do not count. With example weights the average is ``sum(w · loss) / sum(w)``, so that an example of
weight 2 counts as two, and it is 0 where all weights are.
"""

from mtl_core.losses.binary import BinaryCrossEntropy, BinaryFocal
from mtl_core.losses.catalogue import LOSSES
from mtl_core.losses.classes import CrossEntropy, Focal, cross_entropy_with_probs
from mtl_core.losses.loss import LabelForm, Loss
from mtl_core.losses.ordinal import Corn
from mtl_core.losses.ranking import RankNet
from mtl_core.losses.values import Huber, MeanAbsoluteError, MeanSquaredError, Pinball, Poisson

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "Corn",
    "CrossEntropy",
    "Focal",
    "Huber",
    "LabelForm",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Pinball",
    "Poisson",
    "RankNet",
    "cross_entropy_with_probs",
]
