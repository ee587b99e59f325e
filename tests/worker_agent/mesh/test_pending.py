"""Who must go when too many wait."""

import asyncio
from contextlib import suppress

import pytest

from worker_agent.mesh.pending import Pending

pytestmark = pytest.mark.anyio


async def _waiting() -> None:
    await asyncio.Event().wait()


async def test_the_oldest_of_the_largest_crowd_goes() -> None:
    pending = Pending(4)
    tasks: dict[str, asyncio.Task[None]] = {}
    for name in ("friend1", "crowd1", "crowd2", "other1", "crowd3", "crowd4", "friend2"):
        tasks[name] = asyncio.create_task(_waiting())
        pending.add(tasks[name], name.rstrip("1234"))
        assert len(pending) <= 4
    await asyncio.sleep(0)
    assert [name for name, task in tasks.items() if task.cancelled()] == ["crowd1", "crowd2", "crowd3"]
    for name in ("friend1", "friend1", "crowd1"):  # known, or gone already
        pending.remove(tasks[name])
    assert len(pending) == 3
    for task in tasks.values():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
