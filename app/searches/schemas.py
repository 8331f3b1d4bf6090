"""Searches as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from app.runs.schemas import TrainIn
from app.wire import In, Out, shown_as
from mtl_core.training.watched_metrics import WatchedMetric

_LARGEST = 2**53
_MAX_STEPS = 10**9
_SEARCH: dict[str, Any] = {
    "train": {"datasets": ["circleDataset"], "trainer": {"n_epochs": 3, "valid_split": "train"}},
    "space": {
        "trainer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
        "trainer.batch_size": {"type": "int", "low": 8, "high": 64, "log": True},
        "trainer.optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
    },
    "objective": "*/*/train/accuracy:max",
    "budget": {"runs": 3},
}
_FOUND: dict[str, Any] = {
    "run": "run_01KD8Z6Y0000000000000000AB",
    "objective": "*/*/valid/roc_auc:max",
    "best": {
        "number": 1,
        "run": "run_01KD8Z6Y0000000000000000AD",
        "status": "succeeded",
        "params": {"trainer.lr": 0.012},
        "value": 0.97,
        "epoch": None,
    },
    "trials": [
        {
            "number": 0,
            "run": "run_01KD8Z6Y0000000000000000AC",
            "status": "pruned",
            "params": {"trainer.lr": 0.0001},
            "value": 0.61,
            "epoch": 2,
        },
        {
            "number": 1,
            "run": "run_01KD8Z6Y0000000000000000AD",
            "status": "succeeded",
            "params": {"trainer.lr": 0.012},
            "value": 0.97,
            "epoch": None,
        },
    ],
}


def _readable(metric: str) -> str:
    WatchedMetric.parse(metric)
    return metric


def _ordered(low: float, high: float, *, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low is {low}, above high, which is {high}")
    if log and low <= 0:
        raise ValueError(f"with log, low must be above 0, not {low}")
    if log and stepped:
        raise ValueError("log and step do not go together: leave one of them out")


_Flag = Annotated[bool, Field(strict=True)]
_Number = Annotated[float, Field(strict=True, ge=-1e100, le=1e100)]
_Integer = Annotated[int, Field(strict=True, ge=-_LARGEST, le=_LARGEST)]
_Objective = Annotated[str, Field(max_length=1000), AfterValidator(_readable)]
_SpaceKey = Annotated[str, Field(min_length=1, max_length=500)]


class FloatRange(In):
    """A number from `low` to `high`, both included."""

    type: Literal["float"]
    low: _Number
    high: _Number
    log: _Flag = False
    """Whether its logarithm is drawn evenly, in place of the number itself."""
    step: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = Field(
        default=None, examples=[0.1]
    )
    """Distance of the numbers that are tried, from `low` on; default: any number between the bounds."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _ordered(self.low, self.high, log=self.log, stepped=self.step is not None)
        if self.step and (self.high - self.low) / self.step > _MAX_STEPS:
            raise ValueError(
                f"step is too small: there are more than {_MAX_STEPS:,} numbers of it in the range"
            )
        return self


class IntRange(In):
    """A whole number from `low` to `high`, both included."""

    type: Literal["int"]
    low: _Integer
    high: _Integer
    log: _Flag = False
    """Whether its logarithm is drawn evenly, in place of the number itself."""
    step: Annotated[int, Field(strict=True, ge=1, le=_LARGEST)] = 1
    """Distance of the numbers that are tried, from `low` on."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _ordered(self.low, self.high, log=self.log, stepped=self.step != 1)
        return self


class Choice(In):
    """One of some values, in no order."""

    type: Literal["choice"]
    choices: Annotated[list[JsonValue], Field(min_length=1, max_length=256, examples=[["adam", "sgd"]])]


Dimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Budget(In):
    """How much a search may take: trials, time, or both, whichever ends first."""

    runs: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(default=None, examples=[20])
    """Trials, those that are pruned or fail among them. Default: as many as the minutes allow, at most 10,000."""
    minutes: Annotated[float, Field(strict=True, gt=0, le=525_600)] | None = Field(
        default=None, examples=[30]
    )
    """Minutes for which the search may run, by the database's clock; what still trains then is stopped. Default: no
    limit."""

    @model_validator(mode="after")
    def _is_limited(self) -> Self:
        if self.runs is None and self.minutes is None:
            raise ValueError("give runs or minutes, or both: a search must end")
        return self


class PercentilePruner(In):
    """Stops a trial that is worse than a share of those before it were at the same epoch."""

    type: Literal["percentile"]
    percentile: Annotated[float, Field(strict=True, gt=0, lt=100)] = 50.0
    """Share, in percent, of the trials before it that a trial has to be among the best of; 50 is the median."""
    startup_trials: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 5
    """Trials that must have ended unpruned before the first is pruned."""
    warmup_epochs: Annotated[int, Field(strict=True, ge=0, le=100_000)] = 0
    """Epochs in which no trial is pruned."""


class SearchIn(In, json_schema_extra=shown_as(_SEARCH)):
    """A search to be done."""

    train: TrainIn
    """The training that all trials have in common, as it would be started by itself. Without a seed of its own, every
    trial takes the search's."""
    space: Annotated[
        dict[_SpaceKey, Dimension], Field(min_length=1, max_length=64, examples=[_SEARCH["space"]])
    ]
    """What is searched over, and where: by `trainer.<setting>`, dotted into groups of settings, or
    `architecture.<argument>` for a model that was made from an architecture."""
    objective: Annotated[_Objective, Field(examples=["*/*/valid/roc_auc:max"])]
    """What is searched for: `task/dataset/split/metric:min` or `:max` of the validation split; `*` for any text in a
    part of the key means the mean of all that match."""
    budget: Budget
    parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Trials that may train at one time. With 1, the same seed proposes the same trials, as far as trainings repeat."""
    pruner: Literal["none", "median"] | PercentilePruner = "median"
    """When a trial is stopped that looks bad: never; or, once five have ended, when at some epoch its best value so far
    is worse than the median of theirs at that epoch."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How parameters are proposed: by a tree-structured Parzen estimator (Bergstra et al., 2011), at random for the
    first ten trials; or always at random."""
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0
    """Seeds the proposals."""


class SearchedTrial(Out):
    """A training of a search."""

    number: int
    """From 0 on, in the order in which trials were proposed."""
    run: str
    status: Literal["queued", "running", "cancelling", "succeeded", "pruned", "failed", "cancelled"]
    params: dict[str, Any]
    """Its value of everything that is searched over."""
    value: float | None
    """Of the objective: with the weights that it ended with, or where it was pruned; null while it trains, and where
    it failed."""
    epoch: int | None
    """Epochs after which it was pruned; null where it was not."""


class SearchOut(Out, json_schema_extra=shown_as(_FOUND)):
    """What a search has tried and found."""

    run: str
    objective: str
    best: SearchedTrial | None
    """The trial that has ended with the best value so far; of equal ones, the first."""
    trials: list[SearchedTrial]
    """All trials in the order of their numbers."""
