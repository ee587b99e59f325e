"""The long run of clients that go, for a moment; `python -m tests.disconnect_run` goes on for longer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.api.openai import real_engine
from tests.api.openai.serving import model, open_door
from tests.disconnect_run import SLOTS, WINDOWS, one_try, running, tries

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Once is enough with the real engine: on what the product runs on."""
    return "asyncio", {"use_uvloop": True}


async def test_the_slot_is_free_in_every_window(smollm2: Path) -> None:
    async with running("bundled", smollm2) as engine:
        found = model(engine.address)
        replicas = tuple(replace(replica, api_key=real_engine.KEY, slots=SLOTS) for replica in found.replicas)
        async with open_door([found.model_copy(update={"replicas": replicas})]) as door:
            for window in WINDOWS:
                for stream in (True, False):
                    seconds = await one_try(engine, door, window, stream=stream)
                    assert 0 <= seconds < 10, (window, stream)
            assert await engine.slots_in_use() == 0
            [seconds] = await tries(engine, door, "in mid-stream", stream=True, beside=True, count=1)
            assert seconds < 10
