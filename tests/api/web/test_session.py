"""Signing in: who is let in, for how long, and what other sites cannot do in somebody's name."""

from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

import httpx
import pytest
from structlog.testing import capture_logs

from api.keyring import KeyRing
from api.web.session import LASTS, local_path, new_session, visitor_of
from stoker.domain.keys import Role
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import SECRET, Api, away
from tests.api.web.browsing import FORM, Browser, new_browser

pytestmark = pytest.mark.anyio

PAGES = ("/", "/what-if", "/files", "/routes", "/keys", "/keys/new", "/usage", "/join")


@pytest.mark.parametrize("path", PAGES)
async def test_who_is_not_signed_in_is_asked_to(strangers_browser: Browser, path: str) -> None:
    page = await strangers_browser.get(path)
    assert page.status_code == 200
    assert page.url.path == "/sign-in"
    assert page.url.params.get("next", "/") == path
    assert "API key" in page.text


async def test_signing_in_leads_back_to_what_was_asked_for(lone_api: Api, strangers_browser: Browser) -> None:
    _, key = lone_api.key(Role.ADMIN)
    await lone_api.context.keyring.refresh()
    page = await strangers_browser.post(f"/sign-in?next={quote('/usage?by=day', safe='')}", {"key": key})
    assert (page.status_code, str(page.url).removeprefix(lone_api.url)) == (200, "/usage?by=day")
    assert strangers_browser.session is not None
    assert key not in strangers_browser.session
    assert key not in page.text


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("/usage?by=day", "/usage?by=day"),
        ("/", "/"),
        ("", None),
        (None, None),
        ("//elsewhere.example", None),
        ("/\\elsewhere.example", None),
        ("https://elsewhere.example", None),
        ("/a\\b", None),
        ("/a\r\nset-cookie: b", None),
    ],
)
async def test_only_paths_of_ours_are_led_to(asked: str | None, path: str | None) -> None:
    assert local_path(asked) == path


async def test_sign_ins_are_in_the_log_without_the_key(lone_api: Api, strangers_browser: Browser) -> None:
    key_id, key = lone_api.key(Role.ADMIN, "the boss")
    await lone_api.context.keyring.refresh()
    with capture_logs() as logs:
        await strangers_browser.sign_in("sk-stoker-of-nobody")
        await strangers_browser.sign_in(key)
        await strangers_browser.post("/sign-out")
    told = [(line["event"], line.get("key_name"), line["client"]) for line in logs if "client" in line]
    assert told == [
        ("sign_in_refused", None, "127.0.0.1"),
        ("signed_in", "the boss", "127.0.0.1"),
        ("signed_out", "the boss", "127.0.0.1"),
    ]
    assert key_id in str(logs)
    assert key not in str(logs)
    assert "of-nobody" not in str(logs)


@pytest.mark.parametrize("key", ["", "nonsense", "sk-stoker-0123456789ab-" + "x" * 43])
async def test_a_wrong_key_is_told_so(strangers_browser: Browser, key: str) -> None:
    page = await strangers_browser.sign_in(key)
    assert page.status_code == 401
    assert 'role="alert"' in page.text
    assert strangers_browser.session is None


async def test_the_cookie_is_for_our_server_and_pages_only(lone_api: Api) -> None:
    _, key = lone_api.key(Role.USER)
    await lone_api.context.keyring.refresh()
    browser = new_browser(lone_api)
    browser.client.follow_redirects = False
    plain = (await browser.sign_in(key)).headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert "Secure" not in plain
    # A proxy in front of us that ends https: the browser's own Origin tells.
    behind = await browser.post("/sign-in", {"key": key}, origin="https://stoker.example", host="stoker.example")
    assert "Secure" in behind.headers["set-cookie"]
    assert behind.headers["set-cookie"].startswith("__Host-stoker_session=")
    assert "Path=/" in behind.headers["set-cookie"]
    assert "Domain" not in behind.headers["set-cookie"]
    cookie = behind.headers["set-cookie"].partition(";")[0]
    await browser.client.aclose()
    browser = new_browser(lone_api)
    page = await browser.get("/usage", host="stoker.example", cookie=cookie)
    assert page.url.path == "/usage"
    await browser.client.aclose()


async def test_a_revoked_key_ends_its_sessions(lone_api: Api, strangers_browser: Browser) -> None:
    key_id, key = lone_api.key(Role.ADMIN)
    await lone_api.context.keyring.refresh()
    assert (await strangers_browser.sign_in(key)).url.path == "/"
    await lone_api.context.write(lambda session, now: Keys(session, now).revoke(key_id))
    await lone_api.context.keyring.refresh()
    assert (await strangers_browser.get("/")).url.path == "/sign-in"


async def test_a_session_holds_for_its_time_and_as_it_was_signed(lone_api: Api) -> None:
    context = lone_api.context
    key_id, key = lone_api.key(Role.USER)
    await context.keyring.refresh()
    status = context.keyring.authenticate(key)
    assert status is not None
    now = context.clock()
    token = new_session(SECRET, status, now)
    visitor = visitor_of(context, token)
    assert visitor is not None
    assert visitor.key.id == key_id
    assert visitor_of(context, new_session(SECRET, status, now - LASTS - timedelta(seconds=2))) is None
    other_id, _ = lone_api.key(Role.ADMIN)
    await context.keyring.refresh()
    for forged in (
        token[:-1],
        token.replace(key_id, other_id),
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        "",
        "a.b",
    ):
        assert visitor_of(context, forged) is None, forged


async def test_signing_out_ends_every_copy_of_the_session(lone_api: Api, browser: Browser, database: Database) -> None:
    token = browser.session
    assert token is not None
    page = await browser.post("/sign-out")
    assert page.url.path == "/sign-in"
    assert "signed out" in page.text
    assert browser.session is None
    assert visitor_of(lone_api.context, token) is None, "in this process at once"
    elsewhere = replace(lone_api.context, keyring=KeyRing(database, SECRET, lone_api.context.clock))
    await elsewhere.keyring.refresh()
    assert visitor_of(elsewhere, token) is None, "and in others"


async def test_signing_out_while_the_database_is_away(lone_api: Api, browser: Browser, database: Database) -> None:
    token, csrf = browser.session, await browser.token()
    with away(database):
        page = await browser.post("/sign-out", csrf=csrf)
    assert "the database does not answer" in page.text
    assert browser.session is None
    assert visitor_of(lone_api.context, token) is None


async def test_another_stoker_on_this_host_has_a_cookie_of_its_own(lone_api: Api) -> None:
    _, key = lone_api.key(Role.USER)
    await lone_api.context.keyring.refresh()
    browser = new_browser(lone_api)
    await browser.sign_in(key)
    assert list(browser.client.cookies) == [f"stoker_session_{httpx.URL(lone_api.url).port}"]
    await browser.client.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://elsewhere.example", "sec_fetch_site": ""},
        {"origin": "", "sec_fetch_site": "same-site"},
        {"origin": "", "sec_fetch_site": ""},
        {"origin": "null", "sec_fetch_site": ""},
    ],
)
async def test_a_form_of_another_site_is_refused(lone_api: Api, browser: Browser, headers: dict[str, str]) -> None:
    token = await browser.token()
    page = await browser.post("/keys/new", {"name": "theirs"}, csrf=token, **headers)
    assert page.status_code == 403
    assert "theirs" not in (await lone_api.admin.get("/api/v1/keys")).text


@pytest.mark.parametrize("csrf", ["", "0" * 64, "\N{SNOWMAN}"])
async def test_a_form_without_its_sessions_token_is_refused(lone_api: Api, browser: Browser, csrf: str) -> None:
    page = await browser.post("/keys/new", {"name": "unasked"}, csrf=csrf)
    assert page.status_code == 403
    assert "unasked" not in (await lone_api.admin.get("/api/v1/keys")).text


async def test_the_token_of_another_session_is_none(browser: Browser, users_browser: Browser) -> None:
    page = await browser.post("/keys/new", {"name": "borrowed"}, csrf=await users_browser.token())
    assert page.status_code == 403


async def test_what_is_no_form_is_refused(browser: Browser, lone_api: Api) -> None:
    headers = {"origin": lone_api.url, "content-type": "application/json"}
    assert (await browser.client.post("/keys/new", content="{}", headers=headers)).status_code == 422
    broken = await browser.client.post("/keys/new", content=b"\xff", headers=headers | {"content-type": FORM})
    assert broken.status_code == 422


@pytest.mark.parametrize("path", ["/", "/what-if", "/files", "/routes", "/keys", "/keys/new", "/join"])
async def test_a_users_key_opens_no_page_of_administrators(users_browser: Browser, path: str) -> None:
    page = await users_browser.get(path)
    assert page.status_code == 403
    assert "this page needs admin" in page.text
    assert 'href="/keys"' not in page.text


async def test_a_part_of_a_page_whose_session_is_over_sends_the_page_to_sign_in(strangers_browser: Browser) -> None:
    part = await strangers_browser.client.get("/", headers={"hx-request": "true"}, follow_redirects=False)
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in")


async def test_the_theme_is_kept(strangers_browser: Browser) -> None:
    page = await strangers_browser.post("/theme", {"theme": "dark", "next": "/sign-in"})
    assert 'data-theme="dark"' in page.text
    assert (await strangers_browser.post("/theme", {"theme": "pink"})).status_code == 422
