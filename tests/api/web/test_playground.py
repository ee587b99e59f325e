"""The playground's door: whose it is, and that it is the applications' own."""

from typing import Any

import httpx
import pytest

from entrypoints.clock import utc_now
from stoker.domain.deployments import EngineOptions
from stoker.domain.keys import Role
from stoker.secrets import new_key
from stoker.storage.keys import Keys
from tests.api.serving import SECRET, Api
from tests.api.web.browsing import Browser, new_browser
from tests.api.web.scene import deploy
from tests.builders import make_spec

pytestmark = pytest.mark.anyio

ASKED = {"model": "chatty", "messages": [{"role": "user", "content": "hello"}]}


async def ask(browser: Browser, body: Any = ASKED, **headers: str) -> httpx.Response:
    """As the page's script does."""
    sent = {
        "x-csrf-token": await browser.token(),
        "origin": str(browser.client.base_url),
        "sec-fetch-site": "same-origin",
    }
    return await browser.client.post("/playground/chat", json=body, headers=sent | headers)


@pytest.fixture(scope="module", autouse=True)
async def models(lone_api: Api) -> None:
    """One to talk to, that nobody runs, and one that only embeds."""
    deploy(lone_api, make_spec(name="chatty", replicas=0))
    deploy(lone_api, make_spec(name="silent", replicas=0, options=EngineOptions(embeddings=True)))
    await lone_api.context.routes.refresh()


async def test_everyone_who_is_signed_in_sees_the_models_that_can_be_talked_to(users_browser: Browser) -> None:
    page = (await users_browser.get("/playground?model=chatty")).text
    assert 'data-model="chatty"' in page
    assert 'data-first="chatty"' in page
    assert 'data-model="silent"' not in page


async def test_a_request_goes_to_the_applications_door(users_browser: Browser) -> None:
    answer = await ask(users_browser)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_stopped"
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert answer.headers["x-content-type-options"] == "nosniff"
    unknown = await ask(users_browser, ASKED | {"model": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (await ask(users_browser, [1])).status_code == 400


async def test_a_key_asks_its_own_models_only(lone_api: Api) -> None:
    key_id, key = new_key()
    with lone_api.context.database.write() as session:
        Keys(session, utc_now()).add(key_id, "narrow", Role.USER, SECRET.digest(key), models=("other",))
    await lone_api.context.keyring.refresh()
    browser = new_browser(lone_api)
    await browser.sign_in(key)
    assert 'data-model="chatty"' not in (await browser.get("/playground")).text
    assert (await ask(browser)).status_code == 403
    await browser.client.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-csrf-token": "0" * 64},
        {"x-csrf-token": ""},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    ],
)
async def test_other_sites_cannot_ask_in_somebodys_name(users_browser: Browser, headers: dict[str, str]) -> None:
    assert (await ask(users_browser, **headers)).status_code == 403


async def test_without_a_session_nothing_is_asked(strangers_browser: Browser) -> None:
    answer = await strangers_browser.client.post("/playground/chat", json=ASKED, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in"
