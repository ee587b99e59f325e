"""Browsers without scripts, for the API that stands alone."""

from collections.abc import AsyncIterator

import pytest

from stoker.domain.keys import Role
from tests.api.serving import Api
from tests.api.web.browsing import Browser, new_browser


@pytest.fixture
async def browser(lone_api: Api) -> AsyncIterator[Browser]:
    """In which an administrator is signed in."""
    async for signed_in in _signed_in(lone_api, Role.ADMIN):
        yield signed_in


@pytest.fixture
async def users_browser(lone_api: Api) -> AsyncIterator[Browser]:
    """In which somebody with a key of the role user is signed in."""
    async for signed_in in _signed_in(lone_api, Role.USER):
        yield signed_in


@pytest.fixture
async def strangers_browser(lone_api: Api) -> AsyncIterator[Browser]:
    """In which nobody is signed in."""
    made = new_browser(lone_api)
    yield made
    await made.client.aclose()


async def _signed_in(api: Api, role: Role) -> AsyncIterator[Browser]:
    made = new_browser(api)
    _, key = api.key(role)
    await api.context.keyring.refresh()
    await made.sign_in(key)
    assert made.session is not None
    yield made
    await made.client.aclose()
