"""The life of runs, as a model of it has it and as the service leads it."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.service.client import OVER, Api
from tests.service.conftest import Service
from tests.service.processes import until
from tests.service.shapes import ENDLESS, Shapes

# Which status may follow which.
NEXT: dict[str | None, set[str]] = {
    None: {"queued"},
    "queued": {"running", "cancelled"},
    # Again: its worker was lost, and another has it.
    "running": {"running", "queued", "cancelling", "succeeded", "failed"},
    "cancelling": {"cancelled", "succeeded"},
    "failed": {"queued"},
    "cancelled": {"queued"},
    "succeeded": set(),
}
STEPS = 60
"""Where runs of limited steps stop."""
MOST = 3
"""Runs, so that much happens to each."""


@dataclass
class Expected:
    """What the model knows of a run.

    Attributes:
        ends: How it may end.
        by_itself: Whether it ends without anybody's doing.
        limited: Whether its steps are limited to less than it takes.
    """

    ends: set[str]
    by_itself: bool
    limited: bool = False


class Lifecycle(RuleBasedStateMachine):
    """Starts runs, stops them in every way, and holds what is seen against the model."""

    service: Service
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.api: Api = self.service.api
        self.shapes = Shapes(self.api)
        self.expected: dict[str, Expected] = {}
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.n_workers_ended = 0

    @initialize()
    def make(self) -> None:
        """Register a model and its data."""
        self.shapes.make("circle", n=16)

    @precondition(lambda self: len(self.expected) < MOST)
    @rule(
        target=runs,
        kind=st.sampled_from(["endless", "endless", "limited", "short"]),
        priority=st.integers(-2, 2),
    )
    def start(self, kind: str, priority: int) -> str:
        if kind == "endless":
            expected = Expected(set(), by_itself=False)
            return self._start(expected, ENDLESS | {"compile": "off"}, priority=priority)
        if kind == "limited":
            expected = Expected({"failed"}, by_itself=True, limited=True)
            return self._start(expected, {"n_epochs": 20 * STEPS}, limits={"steps": STEPS}, priority=priority)
        return self._start(Expected({"succeeded"}, by_itself=True), {"n_epochs": 10}, priority=priority)

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        answer = self.api.call("POST", f"/v1/runs/{run}/cancel", (202, 409))
        if answer.status_code == 409:
            assert self.api.run(run)["status"] in OVER
        else:
            assert answer.json()["status"] in ("cancelled", "cancelling")
            # It may have been as good as over.
            self.expected[run].ends |= {"cancelled"}
            self.expected[run].by_itself = True

    @rule(run=runs, steps=st.sampled_from([None, 10**6]))
    def resume(self, run: str, steps: int | None) -> None:
        expected, before = self.expected[run], self.api.run(run)
        body = {"limits": {"steps": steps}} if steps else None
        answer = self.api.call(
            "POST", f"/v1/runs/{run}/resume", (202, 409), **({"json": body} if body else {})
        )
        used_up = expected.limited and not steps and (before["resumable_from"] or 0) >= STEPS
        if answer.status_code == 202:
            # It may have ended only just now.
            assert before["status"] != "succeeded"
            assert not used_up
            expected.limited = expected.limited and not steps
            is_endless = before["trainer"]["n_epochs"] == ENDLESS["n_epochs"]
            expected.by_itself = not is_endless
            expected.ends = set() if is_endless else {"failed" if expected.limited else "succeeded"}
        else:
            assert used_up or before["status"] not in ("failed", "cancelled"), answer.text

    @rule(run=runs)
    def kill_process(self, run: str) -> None:
        claims = [claim for worker in self.service.workers for claim in worker.claims(run)]
        if claims and self.api.run(run)["status"] in ("running", "cancelling"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(max(claims, key=lambda claim: claim["attempt"])["pid"], signal.SIGKILL)

    @precondition(lambda self: self.n_workers_ended < 1)
    @rule(kills=st.booleans())
    def end_worker(self, kills: bool) -> None:
        self.n_workers_ended += 1
        worker = next(worker for worker in self.service.workers if worker.process.poll() is None)
        self.service.add_worker()
        if kills:
            worker.kill()
        else:
            worker.stop()

    @rule(run=runs)
    def wait(self, run: str) -> None:
        if self.expected[run].by_itself:
            until(lambda: self.api.run(run)["status"] in OVER, f"run {run} to be over")
            assert self.api.run(run)["status"] in self.expected[run].ends

    @rule(run=runs, share=st.floats(0, 1))
    def follow(self, run: str, share: float) -> None:
        if self.api.run(run)["status"] in OVER:
            events = self.api.events(run)
            after = int(share * len(events))
            assert self.api.events(run, after=after) == events[after:]

    @invariant()
    def runs_are_what_they_may_be(self) -> None:
        for run, expected in self.expected.items():
            now = self.api.run(run)
            if now["status"] in OVER:
                assert now["status"] in expected.ends, now
            assert (now["status"] in OVER) == (now["finished_at"] is not None), now
            assert (now["model_version"] is not None) == (now["status"] == "succeeded"), now
            assert (now["error"] is not None) == (now["status"] == "failed"), now
            numbers = [attempt["number"] for attempt in now["attempts"]]
            assert numbers == list(range(1, now["attempt"] + 1)), now
            is_open = [attempt["outcome"] is None for attempt in now["attempts"]]
            assert not any(is_open[:-1]), now
            assert any(is_open) == (now["status"] in ("running", "cancelling")), now

    def teardown(self) -> None:
        for run, expected in self.expected.items():
            if not expected.by_itself:
                self.cancel(run)
        for run in self.expected:
            self.wait(run)
        self.runs_are_what_they_may_be()
        made = [version for run in self.expected if (version := self.api.run(run)["model_version"])]
        versions = self.api.get(f"/v1/models/{self.shapes.model}")["versions"] if self.expected else []
        assert sorted(made) == sorted(versions) == list(range(1, len(made) + 1))
        for run in self.expected:
            self._check_events(run)
            rows = self.api.get("/v1/scores", run=run)["items"]
            keys = [(row["task"], row["dataset"], row["split"], row["metric"]) for row in rows]
            assert len(keys) == len(set(keys))
            assert bool(keys) == (self.api.run(run)["status"] == "succeeded")

    def _start(self, expected: Expected, trainer: dict[str, Any], **options: Any) -> str:
        body = {"datasets": [self.shapes.dataset("circle")], "trainer": {"seed": 1} | trainer, **options}
        key = {"Idempotency-Key": uuid4().hex}
        path = f"/v1/models/{self.shapes.model}/runs"
        run = self.api.post(path, body, 202, **key)["id"]
        assert self.api.post(path, body, 202, **key)["id"] == run
        self.expected[run] = expected
        return run

    def _check_events(self, run: str) -> None:
        events = self.api.events(run)
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        status, step = None, 0
        for event in events:
            data = event["data"]
            if event["event"] == "status":
                assert data["status"] in NEXT[status], (run, status, data)
                status = data["status"]
            elif event["event"] == "progress":
                step = data.get("resumed_from", step)
                assert data["step"] >= step, (run, step, data)
                step = data["step"]
        assert status == self.api.run(run)["status"]


def test_runs_do_what_the_model_says(service: Service) -> None:
    def machine() -> Lifecycle:
        Lifecycle.service = service
        return Lifecycle()

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10 if os.environ.get("TASKLOOM_FAULTS") == "full" else 2,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
