"""Which loaded version a model's name and alias stand for now, told without asking the database each time.

An answer holds for as long as nothing has happened that could have changed it:

- Whatever this process tells a client by another request (that an alias has moved, that a run has made a version) holds
  for all predictions after that: the first of them asks the database again.
- What other processes do is seen within ``TASKLOOM_REFRESH_SECONDS``, as names in use are looked up that often. A
  version that a name moves to is loaded and warmed up before it takes the name's traffic.
- While the database is away, names stand for what they last stood for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from cachetools import LRUCache

from app.db.session import DATABASE_AWAY, Database, Pulse
from app.logs import get_logger
from app.models import service as models
from app.models.serving import Serving
from app.predictions.batching import Batcher
from app.predictions.loaded import LoadedVersion, Loader, VersionKey, WarmUp
from app.problems import NotFound, Problem
from app.request_log.recording import RequestLog
from app.settings import Settings
from app.storage.artifacts import DamagedArtifactError
from mtl_core.errors import TaskloomError

log = get_logger(__name__)

_IN_USE_SECONDS = 60.0
"""A name that was asked for this lately is looked up again and again, so that nobody has to wait for it."""

_PATIENCE_SECONDS = 1.0
"""How long a database that does not answer is waited for where it is known what a name stood for before."""

_PINS_SECONDS = 5.0

_NOT_SERVED = (Problem, TaskloomError, DamagedArtifactError, OSError, *DATABASE_AWAY)
"""Why a name may stand for no version that can be loaded."""

_Result = TypeVar("_Result")

Key = tuple[str, str | int]
"""A model's name, and a version's number, ``latest``, ``default`` or an alias."""


@dataclass(frozen=True)
class Served:
    """A version in memory, what computes its predictions, and where they are logged."""

    key: VersionKey
    loaded: LoadedVersion
    warm_up: WarmUp
    batcher: Batcher
    log: RequestLog


@dataclass
class _Name:
    """What a key stood for when it was last looked up.

    Attributes:
        served: The version.
        told: How much this process had told its clients by then.
        checked: When that was, by a monotonic clock.
        used: When it was last asked for.
        is_moving: Whether the version that it is to stand for next is being loaded.
        is_assumed: Whether the database was away when it was last looked up.
    """

    served: Served
    told: int
    checked: float
    used: float
    is_moving: bool = False
    is_assumed: bool = False


class CurrentVersions:
    """The versions that this process serves, by the names that clients use for them.

    It belongs to one event loop.

    Args:
        db: The database.
        loader: Loads versions.
        settings: How much memory they may take, and how often names are looked up.
        told: Says how often this process has told clients something of what the database holds.
        in_flight: Says how many requests this process is answering.
        log: Takes in what models have logged.
    """

    def __init__(
        self,
        db: Database,
        loader: Loader,
        settings: Settings,
        told: Callable[[], int],
        in_flight: Callable[[], int],
        log: RequestLog,
    ) -> None:
        self._db = db
        self._pulse = Pulse(db)
        self._loader = loader
        self._settings = settings
        self._told = told
        self._in_flight = in_flight
        self._log = log
        self._names: dict[Key, _Name] = {}
        self._lookups: dict[tuple[Key, int], asyncio.Task[Served]] = {}
        self._loads: dict[VersionKey, asyncio.Task[Served]] = {}
        self._cache: LRUCache[VersionKey, Served] = LRUCache(
            settings.model_cache_bytes, getsizeof=lambda served: served.loaded.bytes
        )
        self._pins: set[str] = set()
        self._pinned: dict[str, Served] = {}
        n_threads = settings.resolved_serving_threads
        self._forward_threads = ThreadPoolExecutor(
            n_threads, "forward", initializer=torch.set_num_threads, initargs=(n_threads,)
        )
        self._lookup_threads = ThreadPoolExecutor(4, "lookup")
        self._load_threads = ThreadPoolExecutor(1, "load")

    def get(self, model: str, wanted: str | int) -> Served | None:
        """Return the version that a name stands for; None if it must be looked up with :meth:`find`."""
        name = self._names.get((model, wanted))
        if name is None or name.told != self._told():
            return None
        now = time.monotonic()
        is_old = now - name.checked > max(_PATIENCE_SECONDS, 4 * self._settings.refresh_seconds)
        if is_old and not name.is_moving:
            return None
        name.used = now
        return name.served

    async def find(self, model: str, wanted: str | int) -> Served:
        """Look a name up, and load what it stands for if need be.

        Raises:
            NotFound: If there is no such model or version.
            DamagedArtifactError: If its weights are not what they should be.
            OperationalError: If the database is away, and the name was not known.
        """
        key, told = (model, wanted), self._told()
        lookup = self._lookups.get((key, told))
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(key, told))
            self._lookups[key, told] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop((key, told), None))
        served = await asyncio.shield(lookup)
        if name := self._names.get(key):
            name.used = time.monotonic()
        return served

    async def keep(self) -> None:
        """Look names in use up as often as the settings say, and load what is pinned, until cancelled."""
        pins_due, pulse = 0.0, ""
        while True:
            now, told = time.monotonic(), self._told()
            in_use = [key for key, name in self._names.items() if now - name.used < _IN_USE_SECONDS]
            if in_use or now >= pins_due:
                before, pulse = pulse, await self._read_pulse()
                if not pulse or pulse != before:
                    # Whatever is not looked up now must be when it is next asked for.
                    for key in self._names.keys() - set(in_use):
                        del self._names[key]
                await self._look_up_again(
                    [key for key in in_use if pulse != before or not self._confirm(key, told, now)]
                )
            if now >= pins_due:
                pins_due = now + _PINS_SECONDS
                await self._pin()
            await asyncio.sleep(self._settings.refresh_seconds)

    def close(self) -> None:
        """Wait for what is being computed, and end the threads."""
        for threads in (self._forward_threads, self._lookup_threads, self._load_threads):
            threads.shutdown(cancel_futures=True)
        self._pulse.close()

    async def _read_pulse(self) -> str:
        """Return what stays the same while nothing is written to the database; nothing where it does not answer."""
        try:
            return await self._in_thread(self._pulse.read)
        except DATABASE_AWAY:
            return ""

    def _confirm(self, key: Key, told: int, now: float) -> bool:
        """Note that a name stands for what it stood for when it was last looked up; say whether that is so."""
        name = self._names.get(key)
        if name is not None and not name.is_assumed:
            name.told, name.checked = max(name.told, told), now
        return name is None or not name.is_assumed

    async def _look_up_again(self, keys: Iterable[Key]) -> None:
        async def again(key: Key) -> None:
            try:
                await self._look_up(key, self._told())
            except _NOT_SERVED as error:
                log.warning("a version cannot be served", model=key[0], version=key[1], error=str(error))

        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(again(key))

    async def _pin(self) -> None:
        """Load the default versions of the models that are pinned, and let those go that no longer are."""

        def read() -> set[str]:
            with self._db.read() as session:
                return models.pinned(session)

        try:
            self._pins = await self._in_thread(read)
        except DATABASE_AWAY:
            return
        await self._look_up_again((model, models.DEFAULT) for model in sorted(self._pins))
        self._pinned = {
            model: name.served for model in self._pins if (name := self._names.get((model, models.DEFAULT)))
        }

    async def _look_up(self, key: Key, told: int) -> Served:
        name, is_assumed = self._names.get(key), False
        reading = asyncio.ensure_future(self._in_thread(self._resolve, key))
        try:
            await asyncio.wait({reading}, timeout=_PATIENCE_SECONDS if name else None)
            if not reading.done():
                raise TimeoutError
            found, serving = reading.result()
        except NotFound:
            self._names.pop(key, None)
            raise
        except (TimeoutError, *DATABASE_AWAY):
            if name is None:
                raise
            log.warning("the database does not answer: predicting as before", model=key[0], version=key[1])
            served, is_assumed = name.served, True
            # Its thread may find an error later, which nobody waits for.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        else:
            served = await self._served(found, serving, name)
        if served.key in self._cache or key[0] in self._pins:
            now, known = time.monotonic(), self._names.get(key)
            if known is None or known.told <= told:
                used = known.used if known else now
                self._names[key] = _Name(served, told, now, used, is_assumed=is_assumed)
        else:
            # A version larger than all that may be kept serves those who wait for it, and is dropped.
            self._names.pop(key, None)
        return served

    def _resolve(self, key: Key) -> tuple[VersionKey, Serving]:
        model, wanted = key
        with self._db.read() as session:
            number, sha256, preprocessing, serving = models.served_version(session, model, wanted)
        return (model, number, f"{sha256} {preprocessing}"), Serving.model_validate(serving or {})

    async def _served(self, key: VersionKey, serving: Serving, name: _Name | None) -> Served:
        """Return a version from memory, or load and warm it up, while a name that is to have it has what it had."""
        served = self._held(key)
        if served is None:
            load = self._loads.get(key)
            if load is None:
                load = self._loads[key] = asyncio.create_task(self._load(key, serving))
                load.add_done_callback(lambda _: self._loads.pop(key, None))
            if name is not None:
                name.is_moving = True
            try:
                served = await asyncio.shield(load)
            finally:
                if name is not None:
                    name.is_moving = False
        served.batcher.serving = serving
        return served

    def _held(self, key: VersionKey) -> Served | None:
        pinned = self._pinned.get(key[0])
        return pinned if pinned is not None and pinned.key == key else self._cache.get(key)

    async def _load(self, key: VersionKey, serving: Serving) -> Served:
        def load() -> tuple[LoadedVersion, WarmUp]:
            with self._db.read() as session:
                version = models.find_version(session, models.get(session, key[0]), key[1])
            loaded = self._loader.load(version)
            return loaded, loaded.warm_up()

        loop = asyncio.get_running_loop()
        loaded, warm_up = await loop.run_in_executor(self._load_threads, load)
        batcher = Batcher(
            loaded, warm_up, serving, self._settings.forward_numbers, self._forward_threads, self._in_flight
        )
        served = Served(key, loaded, warm_up, batcher, self._log)
        if loaded.bytes <= self._settings.model_cache_bytes:
            self._cache[key] = served
            for other in [
                other for other, name in self._names.items() if self._held(name.served.key) is None
            ]:
                del self._names[other]
        return served

    async def _in_thread(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._lookup_threads, work, *arguments)
