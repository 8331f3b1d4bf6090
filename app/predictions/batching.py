"""Dynamic micro-batching: requests that come together are computed together, and told apart again.

A request that comes alone is computed at once. What comes while the processor is busy with other requests, or within
the delay that a model allows where requests have been coming together, shares one forward pass.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from app.models.serving import Serving
from app.predictions.answering import Answers, Part
from app.predictions.loaded import LoadedVersion, Route, WarmUp
from app.problems import DeadlineExceeded, Overloaded
from mtl_core.errors import TaskloomError

Fields = Mapping[str, NDArray[Any]]
"""Fields by name, ``[n, …]`` in the dtype that the version reads."""

Groups = Sequence[tuple[tuple[str, ...], Mapping[str, Any]]]
"""Tasks that were answered together, and tensors by kind."""

_AT_ONCE_SECONDS = 0.004
"""A forward pass that is expected to take longer is computed in a thread, so that other requests are read meanwhile."""

_MOST_NUMBERS_WAITING = 32_000_000
"""Numbers in the fields of requests that wait, all together: a queue of large requests is full sooner."""

_ROWS = Counter("taskloom_predicted_rows_total", "Rows predicted.", ["model"])
_TOGETHER = Histogram(
    "taskloom_requests_per_forward_pass",
    "Predictions that one forward pass answered.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    route: Route
    fields: Fields
    n: int
    numbers: int
    deadline: float | None
    answer: asyncio.Future[Part]


class Batcher:
    """Computes the predictions of one loaded version.

    It belongs to one event loop.

    Args:
        loaded: The version.
        warm_up: What it is known to take.
        serving: How its model is to be served.
        max_numbers: Numbers that a forward pass may take; more rows are computed in turns.
        threads: Computes what takes longer.
        in_flight: Says how many requests the server is answering, this one among them.
    """

    def __init__(
        self,
        loaded: LoadedVersion,
        warm_up: WarmUp,
        serving: Serving,
        max_numbers: int,
        threads: Executor,
        in_flight: Callable[[], int],
    ) -> None:
        self.serving = serving
        self._joins = warm_up.keeps_rows_apart
        self._seconds, self._seconds_per_row = warm_up.seconds, warm_up.seconds_per_row
        self._most_rows = max(1, max_numbers // max(1, loaded.activations))
        self._threads = threads
        self._in_flight = in_flight
        self._waiting: deque[_Waiting] = deque()
        # That the fields of those hold.
        self._numbers = 0
        self._is_due = False
        self._delayed: asyncio.Handle | None = None
        self._is_computing = False
        self._aside: asyncio.Task[None] | None = None
        # How many requests the last turn answered: as many are awaited where a delay is allowed.
        self._came_together = 1
        self._rows = _ROWS.labels(loaded.model)
        self._together = _TOGETHER.labels(loaded.model)

    async def answer(self, route: Route, fields: Fields, deadline: float | None = None) -> Part:
        """Answer a request's rows.

        Args:
            route: The path of its question.
            fields: Its rows, ``[n, …]`` of one length each.
            deadline: When, by the event loop's clock, the client no longer waits; default: it does not say.

        Raises:
            Overloaded: If too many requests wait already.
            DeadlineExceeded: If the deadline passes first.
            OperationError: If a module refuses its inputs' values.
        """
        numbers = sum(values.size for values in fields.values())
        is_full = len(self._waiting) >= self.serving.max_queue
        if is_full or (self._waiting and self._numbers + numbers > _MOST_NUMBERS_WAITING):
            raise Overloaded(
                f"{len(self._waiting)} predictions of this version wait already: try again in a moment"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Part] = loop.create_future()
        n = len(next(iter(fields.values())))
        one = _Waiting(route, fields, n, numbers, deadline, future)
        if self._in_flight() == 1 and deadline is None and self._expected([one]) <= _AT_ONCE_SECONDS:
            # There is nobody to wait for.
            self._came_together = 1
            _hand_out([one], self._compute([one]))
            return future.result()
        self._waiting.append(one)
        self._numbers += numbers
        if not self._is_computing:
            self._schedule(loop)
        if deadline is None:
            return await future
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except TimeoutError:
            raise DeadlineExceeded("the prediction was not made within X-Request-Timeout") from None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have what waits computed in the loop's next turn, when whatever came in this one waits too."""
        if self._is_due:
            return
        if self.serving.max_delay_ms and len(self._waiting) < self._came_together:
            self._delayed = self._delayed or loop.call_later(self.serving.max_delay_ms / 1000, self._turn)
            return
        if self._delayed is not None:
            self._delayed.cancel()
        self._is_due = True
        if len(self._waiting) < self._came_together:
            # Who came together last time may be on the way: the loop looks at its sockets once more.
            loop.call_soon(loop.call_soon, self._turn)
        else:
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Compute what waits, or as much of it as goes into one batch for each question."""
        self._is_due, self._delayed = False, None
        taken = self._take()
        self._came_together = len(taken)
        slow: list[list[_Waiting]] = []
        seconds = 0.0
        for group in self._grouped(taken):
            seconds += self._expected(group)
            if seconds > _AT_ONCE_SECONDS:
                slow.append(group)
            else:
                _hand_out(group, self._compute(group))
        loop = asyncio.get_running_loop()
        if slow:
            self._is_computing = True
            self._aside = loop.create_task(self._compute_aside(slow))
        elif self._waiting:
            self._schedule(loop)

    async def _compute_aside(self, groups: Sequence[list[_Waiting]]) -> None:
        loop = asyncio.get_running_loop()
        for group in groups:
            _hand_out(group, await loop.run_in_executor(self._threads, self._compute, group))
        self._is_computing = False
        if self._waiting:
            self._schedule(loop)

    def _take(self) -> list[_Waiting]:
        """Return who is served next, the longest waiting first; who has given up is not."""
        now = asyncio.get_running_loop().time()
        taken: list[_Waiting] = []
        rows = 0
        while self._waiting and (not taken or rows + self._waiting[0].n <= self.serving.max_batch_rows):
            one = self._waiting.popleft()
            self._numbers -= one.numbers
            if one.answer.done():
                continue
            if one.deadline is not None and one.deadline <= now:
                one.answer.set_exception(
                    DeadlineExceeded("X-Request-Timeout passed while others were served")
                )
                continue
            taken.append(one)
            rows += one.n
        return taken

    def _grouped(self, taken: Sequence[_Waiting]) -> list[list[_Waiting]]:
        """Put those together that one forward pass can answer: of one question, with rows of one shape."""
        if len(taken) == 1 or not self._joins:
            return [[one] for one in taken]
        groups: dict[Any, list[_Waiting]] = {}
        for one in taken:
            shapes = tuple(one.fields[name].shape[1:] for name in one.route.fields)
            # A request of more rows than a forward pass takes is computed in turns, by itself.
            alone = id(one) if one.n > self._most_rows or one.route.question.operations else None
            groups.setdefault((one.route.question, shapes, alone), []).append(one)
        return list(groups.values())

    def _expected(self, group: Sequence[_Waiting]) -> float:
        """Return about how many seconds a group takes."""
        return self._seconds + self._seconds_per_row * sum(one.n for one in group)

    def _compute(self, group: Sequence[_Waiting]) -> Sequence[Part | Exception]:
        """Return what each request of a group is answered."""
        self._together.observe(len(group))
        started = time.perf_counter()
        try:
            answers = Answers.of(self._forward(group))
        except TaskloomError as error:
            if len(group) == 1:
                return [error]
            # One of them is at fault, and must not fail the others.
            return [answer for one in group for answer in self._compute([one])]
        except Exception as error:  # noqa: BLE001 - it is raised where each of them waits
            return [error] * len(group)
        n = sum(one.n for one in group)
        self._rows.inc(n)
        self._learn(n, time.perf_counter() - started)
        if len(group) == 1:
            return [Part(answers, None)]
        parts: list[Part] = []
        end = 0
        for one in group:
            start, end = end, end + one.n
            parts.append(Part(answers, slice(start, end)))
        return parts

    def _forward(self, group: Sequence[_Waiting]) -> Groups:
        route = group[0].route
        fields = {
            name: torch.from_numpy(joined([one.fields[name] for one in group], copy=route.paths.writes))
            for name in route.fields
        }
        n = sum(one.n for one in group)
        if n <= self._most_rows:
            return route.paths.in_groups(fields)
        step = self._most_rows
        turns = [
            route.paths({name: values[i : i + step] for name, values in fields.items()})
            for i in range(0, n, step)
        ]
        return [
            ((name,), {kind: _chained([turn[name][kind] for turn in turns]) for kind in turns[0][name]})
            for name in route.tasks
        ]

    def _learn(self, n: int, seconds: float) -> None:
        """Correct what a row is expected to take by what rows took, a little at a time."""
        expected = max(1e-6, self._seconds + self._seconds_per_row * n)
        # Rare pauses of the machine must not count for much.
        ratio = min(2.0, max(0.5, seconds / expected)) ** 0.1
        self._seconds, self._seconds_per_row = self._seconds * ratio, self._seconds_per_row * ratio


def _hand_out(group: Sequence[_Waiting], answers: Sequence[Part | Exception]) -> None:
    for one, answer in zip(group, answers, strict=True):
        if one.answer.done():
            continue
        if isinstance(answer, Exception):
            one.answer.set_exception(answer)
        else:
            one.answer.set_result(answer)


def joined(arrays: Sequence[NDArray[Any]], *, copy: bool) -> NDArray[Any]:
    """Return arrays ``[n, …]`` as one that torch may take, which no others see where it is copied."""
    if len(arrays) > 1:
        return np.concatenate(arrays)
    # torch takes no array that may not be written to, as one is that lies in a request's bytes.
    return arrays[0].copy() if copy or not arrays[0].flags.writeable else arrays[0]


def _chained(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], Mapping):
        first = cast("Mapping[Any, Any]", parts[0])
        return {key: _chained([part[key] for part in parts]) for key in first}
    return [_chained(list(items)) for items in zip(*parts, strict=True)]
