from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
import torch

from app.db.session import Database
from app.db.tables import Alias, Model, Run, Version
from app.predictions.current import CurrentVersions, Served
from app.predictions.loaded import Loader
from app.problems import NotFound
from app.request_log.recording import RequestLog
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core import MultitaskClassifier, module_weights
from mtl_core.building.budget import Limits
from mtl_core.building.tasks import build_tasks
from mtl_core.specs import TaskSpec
from tests.app.predictions.versions import spec_of

SETTINGS: dict[str, Any] = {"refresh_seconds": 0.05, "serving_threads": 1}


class World:
    """A model with versions, as other processes make and move them."""

    def __init__(self, db: Database, store: ArtifactStore) -> None:
        self.db, self.store = db, store
        self.told = 0
        with db.write() as session:
            session.add(Model(name="m", tasks=[], aliases=[]))

    def add_version(self, number: int, width: int = 8) -> None:
        torch.manual_seed(number)
        layers = [
            {"type": "Linear", "in_features": a, "out_features": b} for a, b in ((3, width), (width, 8))
        ]
        spec = spec_of("a", "x", {"type": "Sequential", "layers": layers})
        spec["module_pool"]["head_a"] = {"type": "Linear", "in_features": 8, "out_features": 2}
        network = MultitaskClassifier(build_tasks([TaskSpec.model_validate(spec)]), device=-1)
        stored = self.store.put_tensors(module_weights(network))
        run = f"run_{number}"
        with self.db.write() as session:
            session.add(Run(id=run, model="m", kind="train", status="succeeded", request={}, job={}))
            session.flush()
            session.add(
                Version(
                    **{"model": "m", "number": number, "run": run, "tasks": [spec], "parameters": 1},
                    fields={"x": {"shape": [3], "dtype": "float32", "vocabulary": None}},
                    sha256=stored.sha256,
                    bytes=stored.bytes,
                )
            )

    def move(self, alias: str, number: int) -> None:
        with self.db.write() as session:
            row = session.get(Alias, ("m", alias))
            if row is None:
                session.add(Alias(model="m", name=alias, version=number))
            else:
                row.version = number

    def run(self, work: Callable[[CurrentVersions], Awaitable[None]], **settings: Any) -> None:
        """Do some work beside the keeper of a server's names."""

        async def main() -> None:
            loader = Loader(self.store, Limits(), SentenceEncoders({}))
            made = Settings(**SETTINGS | settings)
            current = CurrentVersions(
                self.db, loader, made, lambda: self.told, lambda: 2, RequestLog(self.db)
            )
            keeping = asyncio.create_task(current.keep())
            try:
                await work(current)
            finally:
                keeping.cancel()
                current.close()

        asyncio.run(main())


async def number_of(current: CurrentVersions, wanted: str | int = "default") -> int:
    return (await served_by(current, wanted)).loaded.number


async def served_by(current: CurrentVersions, wanted: str | int = "default") -> Served:
    return current.get("m", wanted) or await current.find("m", wanted)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def world(db: Database, store: ArtifactStore) -> World:
    world = World(db, store)
    world.add_version(1)
    return world


def test_what_was_told_is_known_at_once(world: World) -> None:
    async def work(current: CurrentVersions) -> None:
        assert await number_of(current) == 1
        assert current.get("m", "default") is not None
        world.add_version(2)
        world.told += 1
        assert current.get("m", "default") is None
        assert await number_of(current) == 2
        world.move("default", 1)
        world.told += 1
        assert await number_of(current) == 1
        assert await number_of(current, "latest") == 2
        with pytest.raises(NotFound):
            await current.find("m", "nowhere")
        with pytest.raises(NotFound):
            await current.find("nobody", "default")

    world.run(work, refresh_seconds=60)


def test_what_others_do_is_looked_for(world: World) -> None:
    async def work(current: CurrentVersions) -> None:
        first = await served_by(current)
        world.add_version(2)

        def number() -> int:
            served = current.get("m", "default")
            # It stands for one or the other, at any moment.
            assert served is not None
            return served.loaded.number

        await until(lambda: number() == 2)
        world.move("default", 1)
        await until(lambda: number() == 1)
        assert current.get("m", "default") is first

    world.run(work)


def test_many_who_ask_at_once_load_a_version_once(world: World) -> None:
    async def work(current: CurrentVersions) -> None:
        found = await asyncio.gather(
            *(current.find("m", wanted) for wanted in ("default", "latest", 1, "1") * 5)
        )
        assert len({id(served) for served in found}) == 1

    world.run(work)


def test_the_least_recently_used_goes_for_want_of_room(db: Database, store: ArtifactStore) -> None:
    world = World(db, store)
    # 2.5 MiB each: two fit.
    for number in (1, 2, 3):
        world.add_version(number, width=54_000)

    async def work(current: CurrentVersions) -> None:
        first = await served_by(current, 1)
        for number in (2, 1, 3):
            assert await number_of(current, number) == number
        assert current.get("m", 1) is first
        assert current.get("m", 2) is None
        assert await number_of(current, 2) == 2

    world.run(work, model_cache_mib=6, refresh_seconds=60)


def test_while_the_database_is_away_names_stand_for_what_they_did(
    world: World, request: pytest.FixtureRequest
) -> None:
    if world.db.engine.dialect.name == "sqlite":
        pytest.skip("SQLite is a file: it does not go away")
    url = world.db.engine.url
    name, server = url.database, url.set(drivername="postgresql", database="postgres")

    async def work(current: CurrentVersions) -> None:
        assert await number_of(current) == 1
        with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        for _ in range(3):
            world.told += 1
            assert await number_of(current) == 1
            await asyncio.sleep(0.1)
        with pytest.raises(Exception, match="does not exist"):
            await current.find("m", "latest")

    world.run(work)
