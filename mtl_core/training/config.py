"""The trainer's settings, by the names of the seed framework, each with its default and range."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from mtl_core.documented import Documented
from mtl_core.errors import SpecError
from mtl_core.specs import CatalogueSpec
from mtl_core.training.balancing import BALANCERS
from mtl_core.training.watched_metrics import WatchedMetric

_Key = TypeVar("_Key", str, "str | list[str]")


def _readable(metric: _Key) -> _Key:
    WatchedMetric.parse(metric)
    return metric


def _known_balancer(spec: CatalogueSpec) -> CatalogueSpec:
    try:
        BALANCERS.arguments(spec)
    except SpecError as error:
        raise ValueError(
            "; ".join(f"{fault.pointer} {fault.detail}".strip() for fault in error.faults)
        ) from None
    return spec


# Strict, because what JSON calls true or "1" is no number.
_Flag = Annotated[bool, Field(strict=True)]
_Positive = Annotated[float, Field(strict=True, gt=0)]
_NotNegative = Annotated[float, Field(strict=True, ge=0)]
_Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
_Decay = Annotated[float, Field(strict=True, ge=0, lt=1)]
_Factor = Annotated[float, Field(strict=True, gt=0, le=1)]
_AtLeastOne = Annotated[float, Field(strict=True, ge=1)]
_Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
_CountFrom1 = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
_SplitName = Annotated[str, Field(min_length=1, max_length=128)]
_ModuleName = Annotated[str, Field(min_length=1, max_length=300)]
_Path = Annotated[str, Field(min_length=1)]
_MetricKey = Annotated[str, Field(max_length=1000)]
_WatchedKey = Annotated[_MetricKey, AfterValidator(_readable)]
_Watched = Annotated[
    _MetricKey | Annotated[list[_MetricKey], Field(min_length=1, max_length=100)], AfterValidator(_readable)
]


class Settings(Documented):
    """What all groups of settings have in common: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


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

    gamma: _Factor = 0.9
    """Factor on the learning rate at every step."""
    step_size: _CountFrom1 = 5
    """Batches between two steps."""


class OneCycleConfig(Settings):
    """Settings of the ``one_cycle`` schedule (Smith and Topin, 2019)."""

    pct_start: _Fraction = 0.3
    """Share of the batches after warm-up in which the learning rate rises to ``lr``; in the others it falls."""
    div_factor: _AtLeastOne = 25.0
    """``lr`` divided by the learning rate at the start."""
    final_div_factor: _AtLeastOne = 1e4
    """The learning rate at the start divided by the one at the end."""


class PlateauConfig(Settings):
    """Settings of the ``plateau`` schedule."""

    metric: _Watched | None = Field(default=None, examples=["model/all/valid/loss:min"])
    """What has to improve, as in ``early_stopping_config.metric``. Default: the loss on the validation split."""
    factor: _Factor = 0.1
    """Factor on the learning rate when the metric has stopped improving."""
    patience: _CountFrom1 = 3
    """Evaluations without an improvement after which the factor is applied."""
    threshold: _NotNegative = 1e-4
    """The metric has improved when it is better than its best by more than this."""


class LRSchedulerConfig(Settings):
    """Settings of the learning-rate schedule that is chosen by ``lr_scheduler``."""

    warmup_steps: Annotated[float, Field(strict=True, ge=0, le=1e9)] = 0.0
    """Length of the linear warm-up from 0 to ``lr``, in ``warmup_unit``; 0 turns it off."""
    warmup_unit: Literal["batches", "epochs"] = "batches"
    """What ``warmup_steps`` counts."""
    warmup_percentage: _Fraction = 0.0
    """Length of the warm-up as a share of the whole training; used where ``warmup_steps`` is 0."""
    min_lr: _NotNegative = 0.0
    """The learning rate never falls below this once warm-up is over; ``cosine`` ends at it."""
    exponential_config: ExponentialConfig = ExponentialConfig()
    """Used by ``exponential``."""
    step_config: StepConfig = StepConfig()
    """Used by ``step``."""
    one_cycle_config: OneCycleConfig = OneCycleConfig()
    """Used by ``one_cycle``."""
    plateau_config: PlateauConfig = PlateauConfig()
    """Used by ``plateau``."""


class BatchSchedulerConfig(Settings):
    """Settings of the batch schedule that is chosen by ``batch_scheduler``."""

    temperature: Annotated[float, Field(strict=True, ge=1, le=1e6)] = 1.0
    """Used by ``proportional``: 1 draws loaders in proportion to their batches, a high one all alike."""
    final_exponent: _Fraction = 0.2
    """Used by ``annealed``: to which power of a loader's batches its chance has fallen in the last epoch; it starts at
    1."""


class DiagnosisConfig(Settings):
    """When the gradients of tasks are compared."""

    times: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 20
    """How often, evenly spread over the training and beginning with its first step."""
    at_steps: Annotated[list[_Count], Field(max_length=10_000)] = Field(default=[], examples=[[0, 100, 1000]])
    """Before which steps, counted from 0, in place of ``times``."""


class LogManagerConfig(Settings):
    """How often losses are logged and the validation split is scored."""

    counter_unit: Literal["batches", "epochs", "points"] = "epochs"
    """What ``evaluation_freq`` and ``checkpoint_runway`` count; points are examples."""
    evaluation_freq: _Positive = 1.0
    """Log and evaluate every so many units, and always at the end."""


class CheckpointerConfig(Settings):
    """When the model is saved, and which of its states comes back at the end."""

    checkpoint_dir: _Path = "checkpoints"
    """Folder of the checkpoints; it is made if there is none."""
    checkpoint_factor: _CountFrom1 = 1
    """Save a checkpoint at every so many evaluations."""
    checkpoint_metric: _Watched = "model/all/train/loss:min"
    """The model is put back to its best by this at the end, unless ``early_stopping`` puts it back to another:
    ``task/dataset/split/metric:min`` or ``:max``. A list, or ``*`` for any text in a part of the key, means the mean of
    all that match."""
    checkpoint_task_metrics: Annotated[list[_WatchedKey], Field(max_length=100)] | None = Field(
        default=None, examples=[["circle_task/circleDataset/valid/accuracy:max"]]
    )
    """Further metrics, the best model by each of which is kept as a file too. Default: none."""
    checkpoint_runway: _NotNegative = 0.0
    """No checkpoint is saved before so many ``counter_unit``s."""
    checkpoint_clear: _Flag = True
    """Whether to remove each checkpoint but the best when there is a newer one, and the newest at the end."""


class LogWriterConfig(Settings):
    """Where logs are written."""

    log_dir: _Path = "logs"
    """Folder in which every run has its own."""
    run_name: Annotated[str, Field(min_length=1)] | None = Field(default=None, examples=["first"])
    """Name of the run's folder. Default: date and time of its start."""


class EarlyStoppingConfig(Settings):
    """When training ends before its last epoch, or a task's share in it does."""

    metric: _Watched | None = Field(default=None, examples=["*/*/valid/accuracy:max"])
    """What has to improve: ``task/dataset/split/metric:min`` or ``:max``; a list, or ``*`` for any text in a part of
    the key, means the mean of all that match. With ``per_task``, a ``*`` for the task is read for each task by itself.
    Default: the loss on the validation split, of the whole model or of each task."""
    patience: _CountFrom1 = 5
    """Evaluations without an improvement after which training, or a task's, ends."""
    min_delta: _NotNegative = 0.0
    """The metric has improved when it is better than its best by more than this."""
    per_task: _Flag = False
    """Whether each task ends by itself: one that has peaked keeps the best weights of its own modules, and what it
    answered then, while the others go on training what they share with it (Li and Hoiem, 2016)."""


class TrainerConfig(Settings):
    """Settings of a :class:`~mtl_core.Trainer`."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] | None = Field(default=None, examples=[1])
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
    accumulate_batches: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    """Batches whose gradients are averaged in one step; those left at an epoch's end make a step too."""
    precision: Literal["float32", "auto", "bfloat16", "float16"] = "float32"
    """What the forward pass computes in where torch deems it safe (autocast; Micikevicius et al., 2018); weights stay
    float32. ``auto`` is bfloat16 on a GPU that has it, else float32; ``float16`` needs a GPU."""
    compile: Literal["auto", "off"] = "auto"
    """Whether steps of networks of common layers with common losses, in float32, are compiled to a list of calls with
    a backward pass written by hand, several times as fast where layers are small; ``off`` leaves all to autograd."""
    ema_decay: _Decay | None = Field(default=None, examples=[0.999])
    """Evaluate, save and end with a running mean of the weights, which keeps this share of itself at every step, and
    less at the first ones. Default: none, the weights themselves."""
    non_finite: Literal["fail", "skip"] = "fail"
    """What to do when a loss or gradient is NaN or infinite: fail, or take no step on that batch and count it."""
    max_skipped: _Count = 100
    """More batches in a row than this are not skipped: training fails."""
    class_prior_bias: _Flag = False
    """Whether heads start at the shares of their classes, or means of their values, in the training labels (Lin et al.,
    2017)."""
    module_lrs: dict[_ModuleName, _Positive] = Field(
        default={}, max_length=10_000, examples=[{"base_mlp": 0.001}]
    )
    """Learning rates of single modules in place of ``lr``; warm-up and schedule scale all alike."""
    frozen_modules: list[_ModuleName] = Field(default=[], max_length=10_000, examples=[["base_mlp"]])
    """Modules that stay exactly as they are: without gradients, and in evaluation mode."""
    optimizer: Literal["sgd", "adam", "adamax", "adamw"] = "adam"
    """How gradients become steps."""
    optimizer_config: OptimizerConfig = OptimizerConfig()
    """Settings of each optimizer."""
    lr_scheduler: Literal["constant", "linear", "exponential", "step", "cosine", "one_cycle", "plateau"] = (
        "constant"
    )
    """How the learning rate changes after warm-up: not; linearly to 0; by a factor a batch, or a step; along a cosine
    to ``min_lr``; up and down again; or by a factor whenever a metric stops improving."""
    lr_scheduler_config: LRSchedulerConfig = LRSchedulerConfig()
    """Warm-up, floor and settings of each schedule."""
    batch_scheduler: Literal["shuffled", "sequential", "round_robin", "proportional", "annealed", "joint"] = (
        "shuffled"
    )
    """Order of batches over all loaders: mixed at random; one loader after the other; in turn; drawn by their size;
    drawn by their size at first, and ever more alike; or a batch of each makes one step, shorter loaders starting
    anew."""
    batch_scheduler_config: BatchSchedulerConfig = BatchSchedulerConfig()
    """Settings of the schedules that draw."""
    balancing: Annotated[CatalogueSpec, AfterValidator(_known_balancer)] = Field(
        default="sum", examples=["uncertainty"]
    )
    """How the tasks' losses, or their gradients, make one step: a way of balancing from the catalogue. Those that
    combine gradients compare the tasks of one step: with several datasets, let ``batch_scheduler`` be ``joint``."""
    diagnosis: _Flag = False
    """Whether to compare the tasks' gradients on the modules that they share: which tasks pull against one another,
    and where, and how large a share each has in losses and gradients."""
    diagnosis_config: DiagnosisConfig = DiagnosisConfig()
    """When."""
    log_manager_config: LogManagerConfig = LogManagerConfig()
    """When to log and evaluate."""
    checkpointing: _Flag = False
    """Whether to save checkpoints, and to end with the best of them."""
    checkpointer_config: CheckpointerConfig = CheckpointerConfig()
    """Where, when and by which metric."""
    logging: _Flag = False
    """Whether to write losses, learning rate and scores to files."""
    log_writer: Literal["tensorboard", "json"] = "tensorboard"
    """Their form: TensorBoard's event files, or one ``log.json``."""
    log_writer_config: LogWriterConfig = LogWriterConfig()
    """Where the files are."""
    early_stopping: _Flag = False
    """Whether training may end before ``n_epochs``; the best weights come back."""
    early_stopping_config: EarlyStoppingConfig = EarlyStoppingConfig()
    """What has to improve, and how long it may fail to."""

    @model_validator(mode="after")
    def _gradients_need_no_scaler(self) -> TrainerConfig:
        name, _ = BALANCERS.arguments(self.balancing)
        method = BALANCERS.entries[name]
        if self.precision == "float16" and getattr(method, "needs_task_gradients", False):
            raise ValueError(f"balancing by '{name}' looks at gradients, which float16 scales: use bfloat16")
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_model_config(cls, settings: Any) -> Any:
        # The seed framework took this setting and did nothing with it.
        if isinstance(settings, dict) and "model_config" in settings:
            raise ValueError(
                "a trainer has no model_config: give device and dataparallel to MultitaskClassifier"
            )
        return settings  # pyright: ignore[reportUnknownVariableType]
