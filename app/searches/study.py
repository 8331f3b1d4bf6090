"""What Optuna knows of a search: made anew of its trials, never stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from app.searches.schemas import Choice, Dimension, FloatRange, SearchIn
from app.searches.space import Point, highest
from app.searches.state import Outcome
from mtl_core.training.watched_metrics import WatchedMetric

# It would tell each study and trial on standard error; the search has its own events.
optuna.logging.set_verbosity(optuna.logging.ERROR)

_STARTUP_TRIALS = 5


@dataclass(frozen=True)
class Tried:
    """A trial as far as it has come.

    Attributes:
        point: What was proposed.
        outcome: How it ended; None while it trains.
    """

    point: Point
    outcome: Outcome | None


class Study:
    """Proposes trials and judges them.

    A proposal depends on the search's seed, how many trials there were before, and how they ended: nothing is carried
    from one proposal to the next, so whoever has the rows goes on with the search.

    Args:
        search: What was asked for.
        trials: All trials, in the order of their numbers.
    """

    def __init__(self, search: SearchIn, trials: Sequence[Tried]) -> None:
        self._distributions = {key: _distribution(dimension) for key, dimension in search.space.items()}
        is_min = WatchedMetric.parse(search.objective).mode == "min"
        self._pruner = _pruner(search)
        self._study = optuna.create_study(
            sampler=_sampler(search, len(trials)),
            pruner=self._pruner,
            direction="minimize" if is_min else "maximize",
        )
        self._study.add_trials([self._frozen(trial) for trial in trials])

    def propose(self) -> Point:
        """Return the parameters to try next."""
        params = self._study.ask(self._distributions).params
        return {key: params[key] for key in self._distributions}

    def rejects_at(self, point: Point, values: Mapping[int, float], after: int = -1) -> int | None:
        """Return the first epochs after which a trial should have been pruned.

        Args:
            point: What was proposed.
            values: The objective's, by epochs.
            after: Only judge it at more epochs than these.

        Returns:
            None where it goes on.
        """
        if isinstance(self._pruner, NopPruner):
            return None
        so_far: dict[int, float] = {}
        for epoch, value in sorted(values.items()):
            so_far[epoch] = value
            if epoch > after and self._pruner.prune(self._study, self._running(point, so_far)):
                return epoch
        return None

    def _frozen(self, trial: Tried) -> FrozenTrial:
        outcome = trial.outcome
        if outcome is None:
            return self._running(trial.point, {})
        state, value = TrialState.FAIL, None
        if outcome.state == "pruned" or (outcome.state == "succeeded" and outcome.epoch is not None):
            # Whether a rejected trial was stopped in time is no news of its parameters.
            state, value = TrialState.PRUNED, outcome.values.get(max(outcome.values, default=0))
        elif outcome.state == "succeeded":
            state, value = TrialState.COMPLETE, outcome.value
        return create_trial(
            state=state,
            value=value,
            params=dict(trial.point),
            distributions=self._distributions,
            intermediate_values=dict(outcome.values),
        )

    def _running(self, point: Point, values: Mapping[int, float]) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING,
            params=dict(point),
            distributions=self._distributions,
            intermediate_values=dict(values),
        )


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension:
        case Choice(choices=choices):
            return CategoricalDistribution(tuple(range(len(choices))))
        case FloatRange(low=low, log=log, step=step):
            return FloatDistribution(low, highest(dimension), log=log, step=step)
        case _:
            return IntDistribution(
                dimension.low, int(highest(dimension)), log=dimension.log, step=dimension.step
            )


def _sampler(search: SearchIn, number: int) -> BaseSampler:
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    # The liar keeps trials that train side by side apart.
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _pruner(search: SearchIn) -> BasePruner:
    match search.pruner:
        case "none":
            return NopPruner()
        case "median":
            return PercentilePruner(50.0, n_startup_trials=_STARTUP_TRIALS)
        case pruner:
            return PercentilePruner(
                pruner.percentile,
                n_startup_trials=pruner.startup_trials,
                n_warmup_steps=pruner.warmup_epochs,
            )
