"""The trainer's settings, by the names of the seed framework, each with its default and range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# Strict, because what JSON calls true or "1" is no number.
_Flag = Annotated[bool, Field(strict=True)]
_Positive = Annotated[float, Field(strict=True, gt=0)]
_NotNegative = Annotated[float, Field(strict=True, ge=0)]
_Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
_Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
_Factor = Annotated[float, Field(strict=True, gt=0, le=1)]
_SplitName = Annotated[str, Field(min_length=1, max_length=128)]


class Settings(BaseModel):
    """What all groups of settings have in common: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SGDConfig(Settings):
    """Settings of ``sgd`` alone."""

    momentum: _Decay = 0.9
    """Share of the previous step that carries on; 0 turns it off."""


class AdamConfig(Settings):
    """Settings of ``adam`` (Kingma and Ba, 2015) and ``adamw`` (Loshchilov and Hutter, 2019)."""

    amsgrad: _Flag = False
    """Whether the second moment keeps its maximum (Reddi et al., 2018)."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """Decay of the running mean and of the running square of gradients."""
    eps: _Positive = 1e-8
    """Added to the denominator."""


class AdamaxConfig(Settings):
    """Settings of ``adamax`` (Kingma and Ba, 2015, section 7.1)."""

    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """Decay of the running mean and of the infinity norm of gradients."""
    eps: _Positive = 1e-8
    """Added to the denominator."""


class OptimizerConfig(Settings):
    """Settings of the optimizer that is chosen by ``optimizer``."""

    sgd_config: SGDConfig = SGDConfig()
    """Used by ``sgd``."""
    adam_config: AdamConfig = AdamConfig()
    """Used by ``adam`` and ``adamw``."""
    adamax_config: AdamaxConfig = AdamaxConfig()
    """Used by ``adamax``."""


class ExponentialConfig(Settings):
    """Settings of the ``exponential`` schedule."""

    gamma: _Factor = 0.9
    """Factor on the learning rate at every batch."""


class StepConfig(Settings):
    """Settings of the ``step`` schedule."""

    gamma: _Factor = 0.1
    """Factor on the learning rate at every step."""
    step_size: Annotated[int, Field(strict=True, ge=1)] = 5
    """Batches between two steps."""


class LRSchedulerConfig(Settings):
    """Settings of the learning-rate schedule that is chosen by ``lr_scheduler``."""

    warmup_steps: Annotated[float, Field(strict=True, ge=0, le=1e9)] = 0
    """Length of the linear warm-up from 0 to ``lr``, in ``warmup_unit``; 0 turns it off."""
    warmup_unit: Literal["batches", "epochs"] = "batches"
    """What ``warmup_steps`` counts."""
    warmup_percentage: _Fraction = 0.0
    """Length of the warm-up as a share of the whole training; used where ``warmup_steps`` is 0."""
    min_lr: _NotNegative = 0.0
    """The learning rate never falls below this once warm-up is over."""
    exponential_config: ExponentialConfig = ExponentialConfig()
    """Used by ``exponential``."""
    step_config: StepConfig = StepConfig()
    """Used by ``step``."""


class LogManagerConfig(Settings):
    """How often losses are logged and the validation split is scored."""

    counter_unit: Literal["batches", "epochs", "points"] = "epochs"
    """What ``evaluation_freq`` counts; points are examples."""
    evaluation_freq: _Positive = 1.0
    """Log and evaluate every so many units, and always at the end."""


class TrainerConfig(Settings):
    """Settings of a :class:`~mtl_core.Trainer`."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] | None = None
    """Seeds batch order and dropout: the same seed, model and data give the same weights. Default: none."""
    n_epochs: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    """Passes over the training data."""
    train_split: _SplitName = "train"
    """Name of the split to train on."""
    valid_split: _SplitName = "valid"
    """Name of the split that is scored while training."""
    test_split: _SplitName = "test"
    """Name of the split kept for the end."""
    progress_bar: _Flag = True
    """Whether ``fit`` draws a progress bar on standard error."""
    lr: _Positive = 0.01
    """Learning rate."""
    l2: _NotNegative = 0.0
    """Weight decay: an L2 penalty, or decoupled from the loss with ``adamw``."""
    grad_clip: _NotNegative = 1.0
    """Greatest norm of all gradients together; 0 turns clipping off."""
    optimizer: Literal["sgd", "adam", "adamax", "adamw"] = "adam"
    """How gradients become steps."""
    optimizer_config: OptimizerConfig = OptimizerConfig()
    """Settings of each optimizer."""
    lr_scheduler: Literal["constant", "linear", "exponential", "step"] = "constant"
    """How the learning rate changes after warm-up: not, linearly to 0, or by a factor a batch or a step."""
    lr_scheduler_config: LRSchedulerConfig = LRSchedulerConfig()
    """Warm-up, floor and settings of each schedule."""
    batch_scheduler: Literal["shuffled", "sequential"] = "shuffled"
    """Order of batches over all loaders: mixed at random, or one loader after the other."""
    log_manager_config: LogManagerConfig = LogManagerConfig()
    """When to log and evaluate."""
