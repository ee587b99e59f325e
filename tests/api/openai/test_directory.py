"""Finding models while the database hangs, or fails."""

import asyncio

import pytest

from api.openai.directory import Directory
from api.openai.errors import APIError
from api.openai.router import RouteTable
from tests.api.openai.serving import Routes, model, until

pytestmark = pytest.mark.anyio


class Hanging(Routes):
    """A source whose reads wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(model(name="known"))
        self.go = asyncio.Event()
        self.reads = self.cancelled = 0

    async def refresh(self) -> RouteTable:
        self.reads += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().refresh()


def directory(source: Routes, seconds: float = 0.05) -> Directory:
    return Directory(source, seconds, lambda _: None)


async def test_a_read_that_hangs_is_neither_ended_nor_followed_by_others() -> None:
    source = Hanging()
    found = directory(source)
    for _ in range(4):
        with pytest.raises(APIError, match="does not exist"):
            await found.has("new")
    assert (source.reads, source.cancelled) == (1, 0)
    source.later(model(name="new"))
    source.go.set()
    await until(lambda: "new" in source.table.models)
    assert "new" in (await found.has("new")).models
    source.later(model(name="newer"))
    assert "newer" in (await found.has("newer")).models, "and the next one begins a read of its own"
    assert source.reads == 2


async def test_who_goes_does_not_end_the_read_of_others() -> None:
    source = Hanging()
    found = directory(source, 20)
    asking = [asyncio.create_task(found.deployment("new")) for _ in range(2)]
    await until(lambda: source.reads == 2)
    asking[0].cancel()
    source.later(model(("h", 1), name="new"))
    source.go.set()
    route = await asking[1]
    assert route is not None
    assert (route.name, source.cancelled) == ("new", 0)


async def test_a_read_that_crashes_leaves_the_old_table() -> None:
    class Crashing(Routes):
        async def refresh(self) -> RouteTable:
            raise RuntimeError("can't start new thread")

    found = directory(Crashing(model(name="known")))
    assert (await found.deployment("known")) is not None
    with pytest.raises(APIError, match="does not exist"):
        await found.has("new")
