"""The first to end decides."""

import asyncio

import pytest

from entrypoints.concurrency import first_of

pytestmark = pytest.mark.anyio


class Part:
    """Something that runs until it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = False
        self.cleaned = False

    async def run(self, outcome: object) -> object:
        """Gives back or raises `outcome`."""
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            await asyncio.sleep(0)  # cleaning up takes a moment
            self.cleaned = True
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_the_result_of_the_first_and_the_others_are_cancelled_and_done() -> None:
    parts = [Part() for _ in range(3)]
    parts[1].go.set()
    assert await first_of(*(part.run(number) for number, part in enumerate(parts))) == 1
    assert [(part.cancelled, part.cleaned) for part in parts] == [(True, True), (False, True), (True, True)]


async def test_the_error_of_the_first() -> None:
    parts = [Part(), Part()]
    parts[0].go.set()
    with pytest.raises(LookupError, match="broken"):
        await first_of(parts[0].run(LookupError("broken")), parts[1].run("never"))
    assert parts[1].cancelled


async def test_who_is_cancelled_cancels_all_and_waits_for_them() -> None:
    parts = [Part(), Part()]
    task = asyncio.create_task(first_of(*(part.run("never") for part in parts)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(part.cancelled, part.cleaned) for part in parts] == [(True, True), (True, True)]


async def test_a_cleanup_that_fails_does_not_hide_the_first_outcome() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while cleaning up")

    first = Part()
    asyncio.get_running_loop().call_later(0.01, first.go.set)
    assert await first_of(stubborn(), first.run("first")) == "first"
