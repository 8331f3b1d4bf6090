from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.models.serving import Serving
from app.predictions.answering import predictions_of
from app.predictions.batching import Batcher
from app.predictions.loaded import LoadedVersion, WarmUp
from app.predictions.question import Question
from app.problems import DeadlineExceeded, Overloaded
from mtl_core.errors import OperationError
from tests.app.predictions.versions import EMBEDDING, load_version

ALL = Question(("a", "b"), ("preds", "probs"))
SLOW = 10.0
"""Seconds that a row is said to take, so that it is computed in a thread."""


class Batching:
    """A batcher whose version is known to take a time for each row."""

    def __init__(
        self, loaded: LoadedVersion, seconds: float = 0.0, max_numbers: int = 10**6, **serving: Any
    ) -> None:
        self.loaded = loaded
        self.threads = ThreadPoolExecutor(1)
        warm_up = WarmUp(loaded.warm_up().keeps_rows_apart, seconds, 0.0, {})
        self.batcher = Batcher(loaded, warm_up, Serving(**serving), max_numbers, self.threads, lambda: 2)

    async def ask(self, rows: NDArray[Any], question: Question = ALL, **more: Any) -> dict[str, Any]:
        route = self.loaded.route(question)
        return predictions_of(route, await self.batcher.answer(route, {"x": rows}, **more))


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedVersion:
    return load_version(tmp_path, "a", "b")


def rows_of(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def assert_right(
    loaded: LoadedVersion, rows: NDArray[np.float32], answer: dict[str, Any], exact: bool = True
) -> None:
    expected = loaded.classifier.infer({"x": torch.from_numpy(rows.copy())}, ["a", "b"])
    for task in ("a", "b"):
        for kind in ("preds", "probs"):
            if exact:
                assert np.array_equal(answer[task][kind], expected[task][kind])
            else:
                assert np.allclose(answer[task][kind], expected[task][kind], atol=1e-6)


@pytest.mark.parametrize("seconds", [0.0, SLOW])
def test_who_comes_together_is_answered_together_and_told_apart(
    loaded: LoadedVersion, seconds: float
) -> None:
    asked = [rows_of(1 + i, i) for i in range(5)]

    async def work() -> None:
        batching = Batching(loaded, seconds)
        answers = await asyncio.gather(*(batching.ask(rows) for rows in asked))
        for rows, answer in zip(asked, answers, strict=True):
            assert_right(loaded, rows, answer, exact=False)
        assert_right(loaded, asked[0], await batching.ask(asked[0]))

    run(work)


def test_more_rows_than_a_forward_pass_takes_are_computed_in_turns(loaded: LoadedVersion) -> None:
    rows = rows_of(10)

    async def work() -> None:
        batching = Batching(loaded, max_numbers=3 * loaded.activations)
        alone, beside = await asyncio.gather(batching.ask(rows), batching.ask(rows[:1]))
        assert_right(loaded, rows, alone, exact=False)
        assert_right(loaded, rows[:1], beside)

    run(work)


def test_a_request_that_fails_fails_alone(tmp_path: Path) -> None:
    loaded = load_version(tmp_path, "a", "b", shape=[], dtype="int64", trunk=EMBEDDING)

    async def work() -> list[Any]:
        batching = Batching(loaded)
        wanted = [np.array([1]), np.array([99]), np.array([2, 3])]
        return await asyncio.gather(*(batching.ask(rows) for rows in wanted), return_exceptions=True)

    first, wrong, last = run(work)
    assert isinstance(wrong, OperationError)
    assert (len(first["a"]["preds"]), len(last["a"]["preds"])) == (1, 2)


def test_beyond_the_queue_requests_are_refused_at_once(loaded: LoadedVersion) -> None:
    async def work() -> list[Any]:
        batching = Batching(loaded, max_queue=3)
        return await asyncio.gather(*(batching.ask(rows_of(1, i)) for i in range(5)), return_exceptions=True)

    answers = run(work)
    assert [isinstance(answer, Overloaded) for answer in answers] == [False, False, False, True, True]
    assert answers[4].headers == {"Retry-After": "1"}


def test_a_deadline_ends_waiting_and_spares_the_work(loaded: LoadedVersion) -> None:
    async def work() -> None:
        batching = Batching(loaded, SLOW)
        # The one thread is busy: nothing is computed before it is told to go on.
        loop = asyncio.get_running_loop()
        may_end = threading.Event()
        loop.run_in_executor(batching.threads, may_end.wait, 30)
        first = asyncio.create_task(batching.ask(rows_of(1)))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineExceeded):
            await batching.ask(rows_of(2), deadline=loop.time() + 0.05)
        may_end.set()
        assert_right(loaded, rows_of(1), await first)
        with pytest.raises(DeadlineExceeded):
            await batching.ask(rows_of(1), deadline=loop.time() - 1)

    run(work)


def test_a_delay_waits_for_as_many_as_came_together_before(loaded: LoadedVersion) -> None:
    async def work() -> None:
        batching = Batching(loaded, max_delay_ms=1000)
        loop = asyncio.get_running_loop()

        async def timed(rows: NDArray[Any]) -> float:
            started = loop.time()
            await batching.ask(rows)
            return loop.time() - started

        # Alone, nobody waits; nor do two, when two came before.
        alone = await timed(rows_of(1))
        await asyncio.gather(batching.ask(rows_of(1)), batching.ask(rows_of(2)))
        together = await asyncio.gather(timed(rows_of(1)), timed(rows_of(2)))
        # Where two came together, the next waits for a second one, in vain here.
        missed = await timed(rows_of(1))
        again = await timed(rows_of(1))
        assert missed >= 0.9
        assert max(alone, again, *together) < 0.9

    run(work)


def test_questions_that_differ_are_answered_apart(loaded: LoadedVersion) -> None:
    async def work() -> None:
        batching = Batching(loaded)
        first, second = await asyncio.gather(
            batching.ask(rows_of(2), Question(("a",), ("preds",))),
            batching.ask(rows_of(3), Question(("b",), ("logits", "operation:trunk"))),
        )
        assert (list(first), list(first["a"])) == (["a"], ["preds"])
        assert (list(second), list(second["b"])) == (["b"], ["logits", "operations"])
        assert second["b"]["operations"]["trunk"].shape == (3, 8)

    run(work)
