"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn, optim

from mtl_core.errors import TaskloomError
from mtl_core.training.config import TrainerConfig


def build_optimizer(config: TrainerConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """Return the optimizer that ``config.optimizer`` names, over those parameters that want gradients.

    Raises:
        TaskloomError: If no parameter does.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise TaskloomError("the model has no parameter to train")
    settings = config.optimizer_config
    match config.optimizer:
        case "sgd":
            return optim.SGD(
                trained, lr=config.lr, weight_decay=config.l2, momentum=settings.sgd_config.momentum
            )
        case "adam" | "adamw":
            kind = optim.Adam if config.optimizer == "adam" else optim.AdamW
            adam = settings.adam_config
            return kind(
                trained,
                lr=config.lr,
                weight_decay=config.l2,
                amsgrad=adam.amsgrad,
                betas=adam.betas,
                eps=adam.eps,
            )
        case "adamax":
            adamax = settings.adamax_config
            return optim.Adamax(
                trained, lr=config.lr, weight_decay=config.l2, betas=adamax.betas, eps=adamax.eps
            )
