"""The event loops that this door runs on, and the pool of connections."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.openai.upstream import Pool


@pytest.fixture(scope="session", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both: uvloop is what the product runs on, asyncio where there is none. They differ in when they call back."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def pool(anyio_backend: object) -> AsyncIterator[Pool]:
    """A pool that leaves no connection behind."""
    pool = Pool()
    yield pool
    await pool.aclose()
    assert pool.open_connections == 0
