"""The event loops that this door runs on."""

from typing import Any

import pytest


@pytest.fixture(scope="session", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both: uvloop is what the product runs on, asyncio where there is none. They differ in when they call back."""
    return "asyncio", {"use_uvloop": request.param}
