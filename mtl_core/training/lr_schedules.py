"""Learning-rate schedules as functions of the step: any step is computed without replaying the others."""

from __future__ import annotations

from mtl_core.training.config import TrainerConfig


def learning_rate(config: TrainerConfig, step: int, n_steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one batch.

    Args:
        config: The trainer's settings.
        step: The batch's number from the start of training, from 0.
        n_steps: Batches of the whole training.
        steps_per_epoch: Batches of one epoch.

    Returns:
        A linear warm-up to ``lr``, then the schedule, never below ``min_lr``.

    Example:
        >>> config = TrainerConfig(lr=0.1, lr_scheduler="linear")
        >>> [round(learning_rate(config, step, 4, 2), 3) for step in range(4)]
        [0.1, 0.075, 0.05, 0.025]
    """
    settings = config.lr_scheduler_config
    warmup = _warmup_steps(config, n_steps, steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    since = step - warmup
    match config.lr_scheduler:
        case "constant":
            factor = 1.0
        case "linear":
            factor = 1 - since / max(n_steps - warmup, 1)
        case "exponential":
            factor = settings.exponential_config.gamma**since
        case "step":
            factor = settings.step_config.gamma ** (since // settings.step_config.step_size)
    return max(config.lr * factor, settings.min_lr)


def _warmup_steps(config: TrainerConfig, n_steps: int, steps_per_epoch: int) -> int:
    settings = config.lr_scheduler_config
    if settings.warmup_steps:
        return int(settings.warmup_steps * (steps_per_epoch if settings.warmup_unit == "epochs" else 1))
    return int(settings.warmup_percentage * n_steps)
