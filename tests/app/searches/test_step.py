"""Searches, step by step: a worker's part is played by hand, so that what happens when is the test's choice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.db.session import Database, database_now
from app.db.tables import Model, Run, RunEvent, Version
from app.runs import events, lease, service
from app.runs.events import Event
from app.runs.job import SplitRef
from app.runs.lease import Claim, Watch
from app.runs.schemas import TrainIn
from app.runs.trials import finish_trial
from app.searches.keeper import Keeper
from app.searches.schemas import SearchIn, SearchOut
from app.searches.service import kept_artifacts, trials_of
from app.searches.state import SearchJob, state_of
from app.storage.artifacts import ArtifactStore, StoredTensors
from app.storage.encoders import SentenceEncoders
from mtl_core.building.tasks import Limits
from mtl_core.scoring.scorer import Score
from mtl_core.specs import TaskSpec

GOOD, BAD = 0.5, 1e-30
KEY = "t/d/valid/accuracy"

SPEC = {
    "name": "t",
    "module_pool": {"head": {"type": "Linear", "in_features": 2, "out_features": 2}},
    "op_sequence": [{"name": "head", "module_name": "head", "inputs": [["_input_", "x"]]}],
}


def split(name: str) -> SplitRef:
    labels = {"codec": {"column": "y", "type": "index"}, "dtype": "int64", "shape": []}
    return SplitRef.model_validate(
        {
            "dataset": "d",
            "version": 1,
            "split": name,
            "sha256": "",
            "rows": 1,
            "tasks": ["t"],
            "fields": ["x"],
        }
        | {"labels": {"t": labels}, "weights": None, "parts": []}
    )


class World:
    """A search whose trials are trained by hand."""

    def __init__(self, db: Database, store: ArtifactStore) -> None:
        self.db = db
        self.store = store
        self.keeper = self.new_keeper()

    def new_keeper(self) -> Keeper:
        return Keeper(self.db, self.store, SentenceEncoders({}), Limits())

    def start(self, space: dict[str, Any] | None = None, **changes: Any) -> str:
        request = SearchIn.model_validate(
            {
                "train": {"datasets": ["d"], "trainer": {"n_epochs": 2}},
                "space": space or {"trainer.lr": {"type": "choice", "choices": [GOOD, BAD]}},
                "objective": f"{KEY}:max",
                "budget": {"runs": 6},
            }
            | changes
        )
        job = SearchJob(
            tasks=[TaskSpec.model_validate(SPEC)],
            splits=[split("train"), split("valid")],
            fields={},
            preprocessing="fitted",
            train=TrainIn.model_validate(request.train),
            modules=["head"],
            architecture=None,
            outlines=[],
        )
        with self.db.write() as session:
            if session.get(Model, "m") is None:
                session.add(Model(name="m"))
                session.flush()
            return service.enqueue(
                session,
                "search",
                "m",
                request.model_dump(mode="json"),
                job,
                client="somebody",
                priority=3,
            ).id

    def row(self, run: str) -> Run:
        with self.db.read() as session:
            return session.get_one(Run, run)

    def found(self, run: str) -> SearchOut:
        with self.db.read() as session:
            return trials_of(session, session.get_one(Run, run))

    def events(self, run: str, kind: str) -> list[dict[str, Any]]:
        with self.db.read() as session:
            wanted = select(RunEvent.data).where(RunEvent.run == run, RunEvent.kind == kind)
            return list(session.scalars(wanted.order_by(RunEvent.seq)))

    def claim(self) -> tuple[Claim, dict[str, Any]] | None:
        """Take the next trial as a worker does; answer its settings with it."""
        self.keeper.advance()
        with self.db.write() as session:
            claim = lease.claim(session, "w", Watch(), 3600, 3)
            return (claim, session.get_one(Run, claim.run).request["trainer"]) if claim else None

    def log(self, claim: Claim, epoch: int, value: float) -> str:
        data = {"attempt": claim.attempt, "epoch": epoch, "step": epoch, "metrics": {KEY: value}}
        with self.db.write() as session:
            status = lease.report(session, claim, None, [Event("metrics", data)])
        self.keeper.advance()
        with self.db.read() as session:
            return session.get_one(Run, claim.run).status or status

    def finish(self, claim: Claim, value: float) -> None:
        weights = StoredTensors(f"weights of {claim.run}", 8, 6)
        scores = [Score("t", "d", "valid", "accuracy", value, 1)]
        with self.db.write() as session:
            finish_trial(session, claim, weights, scores, {KEY: value})

    def fail(self, claim: Claim) -> None:
        with self.db.write() as session:
            lease.fail(session, claim, "it would not train")

    def call(self, rule: Callable[..., None], run: str) -> None:
        with self.db.write() as session:
            rule(session, service.get(session, run, lock=True))

    def train(self, value_of: Callable[[dict[str, Any]], float]) -> None:
        """Train whatever is queued, until nothing is."""
        while taken := self.claim():
            claim, trainer = taken
            value = value_of(trainer)
            for epoch in range(1, trainer["n_epochs"] + 1):
                if self.log(claim, epoch, value * epoch) == "cancelling":
                    with self.db.write() as session:
                        lease.hand_back(session, claim)
                    break
            else:
                self.finish(claim, value * trainer["n_epochs"])


@pytest.fixture
def world(db: Database, store: ArtifactStore) -> World:
    return World(db, store)


def test_the_best_trial_becomes_a_version_and_nothing_else_is_kept(world: World) -> None:
    run = world.start(pruner="none", budget={"runs": 4})
    world.train(lambda trainer: trainer["lr"])
    row, found = world.row(run), world.found(run)
    assert (row.status, row.model_version, row.progress["fraction"]) == ("succeeded", 1, 1.0)
    assert found.best is not None
    assert found.best.params == {"trainer.lr": GOOD}
    assert found.best.value == pytest.approx(2 * GOOD)
    assert [trial.status for trial in found.trials] == ["succeeded"] * 4
    with world.db.read() as session:
        version = session.get_one(Version, ("m", 1))
        assert (version.run, version.sha256) == (found.best.run, f"weights of {found.best.run}")
        assert kept_artifacts(session) == set()
        assert session.scalars(select(Version)).all() == [version]
    assert world.row(found.best.run).model_version == 1
    assert all("trained" not in world.row(trial.run).result for trial in found.trials)


def test_only_artifacts_of_the_best_trial_are_kept_meanwhile(world: World) -> None:
    world.start(pruner="none")
    for value in (0.1, 0.3, 0.2):
        taken = world.claim()
        assert taken
        world.finish(taken[0], value)
        if value == 0.3:
            best = taken[0].run
    world.keeper.advance()
    with world.db.read() as session:
        assert kept_artifacts(session) == {"fitted", f"weights of {best}"}


def test_a_trial_that_is_worse_than_the_median_is_stopped(world: World) -> None:
    pruner = {"type": "percentile", "startup_trials": 2}
    run = world.start(pruner=pruner, budget={"runs": 6}, sampler="random")
    world.train(lambda trainer: trainer["lr"])
    found = world.found(run)
    by_lr = {
        lr: [trial.status for trial in found.trials if trial.params["trainer.lr"] == lr] for lr in (GOOD, BAD)
    }
    assert set(by_lr[GOOD]) == {"succeeded"}
    assert by_lr[BAD][-1] == "pruned"
    last = [trial for trial in found.trials if trial.status == "pruned"][-1]
    assert (last.epoch, last.value) == (1, BAD)
    stopped = world.row(last.run)
    assert stopped.status == "cancelled"
    assert "after 1 epochs" in stopped.error["detail"]
    assert world.row(run).status == "succeeded"


def test_a_trial_too_fast_to_be_pruned_is_proposed_from_as_if_it_had_been(world: World) -> None:
    """The same seed proposes the same trials, whether workers hear of a stop in time or not."""
    pruner = {"type": "percentile", "startup_trials": 2}
    space = {"trainer.lr": {"type": "float", "low": 1e-6, "high": 1.0, "log": True}}
    heeding = world.start(space, pruner=pruner, budget={"runs": 6}, seed=3)
    world.train(lambda trainer: trainer["lr"])
    deaf = world.start(space, pruner=pruner, budget={"runs": 6}, seed=3)
    while taken := world.claim():
        claim, trainer = taken
        news = [
            Event("metrics", {"attempt": 1, "epoch": e, "step": e, "metrics": {KEY: trainer["lr"] * e}})
            for e in (1, 2)
        ]
        with world.db.write() as session:
            events.append(session, claim.run, news)
        world.finish(claim, trainer["lr"] * 2)
    first, second = world.found(heeding), world.found(deaf)
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]
    assert "pruned" in [trial.status for trial in first.trials]
    assert {trial.status for trial in second.trials} == {"succeeded"}


def test_another_worker_goes_on_where_one_was(world: World) -> None:
    space = {"trainer.lr": {"type": "float", "low": 1e-3, "high": 1.0}}
    whole = world.start(space, budget={"runs": 3})
    world.train(lambda trainer: trainer["lr"])
    often = world.start(space, budget={"runs": 3})
    for _ in range(3):
        world.keeper = world.new_keeper()
        taken = world.claim()
        assert taken
        world.log(taken[0], 1, taken[1]["lr"])
        world.keeper = world.new_keeper()
        world.log(taken[0], 2, taken[1]["lr"] * 2)
        world.finish(taken[0], taken[1]["lr"] * 2)
    world.keeper.advance()
    assert world.row(often).status == "succeeded"
    assert [trial.params for trial in world.found(often).trials] == [
        trial.params for trial in world.found(whole).trials
    ]


def test_a_search_is_cancelled_with_its_trials_and_resumed_with_them(world: World) -> None:
    run = world.start(parallel=3, budget={"runs": 5})
    claims = [world.claim(), world.claim()]
    assert all(claims)
    world.finish(claims[0][0], 0.5)
    world.keeper.advance()
    world.call(service.cancel, run)
    world.keeper.advance()
    assert world.row(run).status == "cancelling"
    statuses = {trial.run: trial.status for trial in world.found(run).trials}
    assert sorted(statuses.values()) == ["cancelled", "cancelled", "cancelling", "succeeded"]
    with world.db.write() as session:
        lease.hand_back(session, claims[1][0])
    world.keeper.advance()
    assert world.row(run).status == "cancelled"
    with world.db.read() as session:
        assert f"weights of {claims[0][0].run}" in kept_artifacts(session)

    world.call(service.resume, run)
    world.train(lambda trainer: trainer["lr"])
    assert world.row(run).status == "succeeded"
    assert len(world.found(run).trials) == 5
    assert statuses.keys() < {trial.run for trial in world.found(run).trials}
    assert [event["status"] for event in world.events(run, "status")] == [
        *("queued", "running", "cancelling", "cancelled"),
        *("queued", "running", "succeeded"),
    ]


def test_what_trains_still_when_the_time_is_over_is_stopped(world: World) -> None:
    run = world.start(budget={"minutes": 5})
    first = world.claim()
    assert first
    world.finish(first[0], 0.2)
    second = world.claim()
    assert second
    world.log(second[0], 1, 0.9)
    with world.db.write() as session:
        row = session.get_one(Run, run)
        began = database_now(session) - timedelta(minutes=6)
        row.result = state_of(row).model_copy(update={"since": began.isoformat()}).model_dump(mode="json")
    world.keeper.advance()
    assert world.row(second[0].run).status == "cancelling"
    with world.db.write() as session:
        lease.hand_back(session, second[0])
    world.keeper.advance()
    assert world.row(run).status == "succeeded"
    best, last = world.found(run).best, world.found(run).trials[-1]
    assert best is not None
    assert (best.run, best.value) == (first[0].run, 0.2)
    assert (last.status, last.value, last.epoch) == ("pruned", 0.9, 1)
    assert "time is over: 5 minutes" in world.row(last.run).error["detail"]


def test_a_search_whose_first_trials_all_fail_fails_and_is_tried_again_when_resumed(world: World) -> None:
    run = world.start(budget={"runs": 50})
    while taken := world.claim():
        world.fail(taken[0])
    row = world.row(run)
    assert row.status == "failed"
    assert "first 5 trials failed" in row.error["detail"]
    assert "it would not train" in row.error["detail"]
    tried = [trial.run for trial in world.found(run).trials]
    assert len(tried) == 5

    world.call(service.resume, run)
    for _ in tried:
        taken = world.claim()
        assert taken
        assert taken[0].run in tried
        world.finish(taken[0], 0.5)
    world.keeper.advance()
    assert [trial.status for trial in world.found(run).trials[:5]] == ["succeeded"] * 5


def test_some_failures_only_cost_their_trials(world: World) -> None:
    run = world.start(budget={"runs": 4}, pruner="none")
    for value in (0.1, None, None, 0.2):
        taken = world.claim()
        assert taken
        if value is None:
            world.fail(taken[0])
        else:
            world.finish(taken[0], value)
    world.keeper.advance()
    assert world.row(run).status == "succeeded"
    found = world.found(run)
    assert [trial.status for trial in found.trials] == ["succeeded", "failed", "failed", "succeeded"]
    assert found.best == found.trials[3]


def test_parameters_that_make_no_training_are_a_failed_trial(world: World) -> None:
    # Either is allowed by itself; together they are not: nothing is left to train.
    space = {"trainer.frozen_modules": {"type": "choice", "choices": [["head"]]}}
    run = world.start(space, budget={"runs": 3})
    assert world.claim() is None
    while world.row(run).finished_at is None:
        world.keeper.advance()
    assert [trial.status for trial in world.found(run).trials] == ["failed"] * 3
    assert "nothing to train" in world.row(run).error["detail"]


def test_an_objective_that_is_undefined_is_a_failed_trial(world: World) -> None:
    run = world.start(budget={"runs": 1})
    taken = world.claim()
    assert taken
    world.finish(taken[0], float("nan"))
    world.keeper.advance()
    assert world.row(run).status == "failed"
    assert world.found(run).trials[0].status == "failed"


def test_a_search_that_cannot_go_on_fails_and_leaves_the_others_alone(world: World) -> None:
    broken = world.start()
    with world.db.write() as session:
        session.get_one(Run, broken).job = {}
    sound = world.start(budget={"runs": 1})
    world.train(lambda trainer: trainer["lr"])
    assert world.row(broken).status == "failed"
    assert world.row(sound).status == "succeeded"
