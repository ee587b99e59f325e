"""The pages of the cluster, as they come from the server: what they say and do without scripts."""

import re
from typing import Any

import pytest

from stoker.domain.units import GIB
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from tests.api.serving import Api
from tests.api.test_placements import deploy, place
from tests.api.web.browsing import Browser
from tests.builders import make_device, make_worker

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def fleet(lone_api: Api, database: Database) -> None:
    """Two workers, one with an instance."""
    hot = make_device(temperature_c=91, load_ratio=0.97, used=5 * GIB, name="<b>RTX</b>")
    for worker in (make_worker(name="attic", devices=(hot,)), make_worker(name="desk", labels={"zone": "b"})):
        assert (await lone_api.join(worker)).status_code == 200
        assert (await lone_api.report(worker)).status_code == 200
    deploy(database, "llama")
    await place(lone_api, "llama-a1b2", "llama", on="attic")


async def test_every_answer_has_the_pages_headers(browser: Browser, strangers_browser: Browser) -> None:
    strangers = [await strangers_browser.get(path) for path in ("/sign-in", "/docs")]
    for page in (await browser.get("/"), *strangers, await browser.get("/workers/nobody"), await browser.get("/docs")):
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        assert " style=" not in page.text
        assert not re.search(r"<script(?! src=)", page.text)
        loaded = re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=\"([^\"]*)\"", page.text)
        assert all(address.startswith("/static/") for address in loaded), "nothing of another host"


async def test_scripts_and_styles_are_kept_for_good(strangers_browser: Browser) -> None:
    page = (await strangers_browser.get("/sign-in")).text
    addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(addresses) == 4
    for address in addresses:
        file = await strangers_browser.get(address)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
    assert (await strangers_browser.get("/static/stoker.000000000000.css")).status_code == 404


@pytest.mark.usefixtures("fleet")
async def test_the_fleet(browser: Browser) -> None:
    page = (await browser.get("/")).text
    assert "9.42 GiB claimed, 5 GiB measured in use" in page
    assert "91 °C" in page
    assert "97 %" in page
    assert "zone=b" in page
    assert "<b>RTX</b>" not in page  # what workers say of themselves is text
    assert 'id="worker-attic"' not in (await browser.get("/?after=attic")).text
    only = (await browser.get("/?name=desk")).text
    assert 'id="worker-desk"' in only
    assert 'id="worker-attic"' not in only


@pytest.mark.usefixtures("fleet")
async def test_a_worker_is_cordoned_and_uncordoned(lone_api: Api, browser: Browser) -> None:
    page = await browser.post("/workers/desk/cordon", {"back": "/"})
    assert page.url.path == "/"
    assert "desk is cordoned" in page.text
    assert "desk is cordoned" not in (await browser.get("/")).text  # said once
    assert (await lone_api.admin.get("/api/v1/workers/desk")).json()["state"] == "cordoned"
    page = await browser.post("/workers/desk/uncordon", {"back": "/workers/desk"})
    assert page.url.path == "/workers/desk"
    assert (await lone_api.admin.get("/api/v1/workers/desk")).json()["state"] == "ready"


@pytest.mark.usefixtures("fleet")
async def test_one_worker_shows_its_instances(browser: Browser) -> None:
    page = (await browser.get("/workers/attic")).text
    assert "llama-a1b2" in page
    missing = await browser.get("/workers/nobody")
    assert missing.status_code == 404
    assert "there is no worker" in missing.text
    assert (await browser.get("/workers/No_Name")).status_code == 422


@pytest.mark.usefixtures("fleet")
async def test_a_drain_is_shown_before_it_begins(browser: Browser) -> None:
    page = (await browser.get("/workers/attic/drain")).text
    assert "1 of 1 instance fits nowhere else now" in page or "1 instance would move" in page
    assert "llama-a1b2" in page


@pytest.mark.usefixtures("fleet")
async def test_a_worker_that_holds_something_is_not_removed_at_once(lone_api: Api, browser: Browser) -> None:
    page = await browser.post("/workers/attic/remove")
    assert page.status_code == 409
    assert "drain it first" in page.text
    assert (await lone_api.admin.get("/api/v1/workers/attic")).status_code == 200


async def test_a_join_token_is_shown_once(browser: Browser) -> None:
    made = (await browser.post("/join", {"ttl_seconds": "600"})).text
    assert "st-join-" in made
    wrong = await browser.post("/join", {"ttl_seconds": "soon"})
    assert wrong.status_code == 422
    assert 'id="ttl_seconds-error"' in wrong.text


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("question", "status", "said"),
    [
        ({"ask": "name", "name": "llama", "add": "2x80GiB"}, 200, "It fits: 1 replica would have a place."),
        ({"ask": "name", "name": "llama", "without": ["attic", "desk"]}, 200, "It does not fit."),
        ({"ask": "drain", "drain": "desk"}, 200, "It holds nothing that would have to move."),
        ({"ask": "name", "name": "nobody"}, 404, "there is no deployment"),
        ({"ask": "name", "name": "llama", "add": "24GB-of-something"}, 422, 'id="add-error"'),
        ({"ask": "model", "model": "what?"}, 422, 'id="model-error"'),
        ({"ask": "model", "model": "hf:org/repo", "replicas": "many"}, 422, 'id="replicas-error"'),
    ],
)
async def test_what_if(browser: Browser, question: dict[str, Any], status: int, said: str) -> None:
    page = await browser.client.get("/what-if", params=question)
    assert page.status_code == status, page.text
    assert said in page.text


async def test_a_key_is_made_changed_and_revoked(lone_api: Api, browser: Browser) -> None:
    made = await browser.post(
        "/keys/new",
        {"name": "chat app", "role": "user", "models": "llama, qwen", "expires_in_seconds": "30d"}
        | {"limits.requests_per_minute": "60", "limits.tokens_per_month": "10M"},
    )
    (key,) = re.findall(r">(sk-stoker-[^<]+)<", made.text)
    status = lone_api.context.keyring.authenticate(key)
    assert status is not None
    assert (status.name, status.models, status.limits.tokens_per_month) == ("chat app", ("llama", "qwen"), 10_000_000)
    path = f"/keys/{status.id}"
    assert key not in (await browser.get("/keys")).text + (await browser.get(path)).text

    changed = await browser.post(path, {"name": "chat app 2", "models": "", "expiry": "never"})
    assert "chat app 2 is changed" in changed.text
    after = await lone_api.context.read(lambda session, now: Keys(session, now).get(status.id))
    assert after is not None
    assert (after.name, after.models, after.expires_at, after.limits.requests_per_minute) == (
        "chat app 2",
        (),
        None,
        None,
    )

    revoked = await browser.post(f"{path}/revoke")
    assert "is revoked" in revoked.text
    assert lone_api.context.keyring.authenticate(key) is None
    again = await browser.post(path, {"name": "more", "expiry": "keep"})
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a", "expires_in_seconds": "soon"}, "expires_in_seconds"),
        ({"name": "a", "limits.requests_per_minute": "lots"}, "limits.requests_per_minute"),
        ({"name": "a", "limits.concurrency": "0"}, "limits.concurrency"),
        ({"name": "a", "models": "<script>"}, "models"),
        ({"name": "a", "role": "king"}, "role"),
    ],
)
async def test_what_is_wrong_with_a_key_is_said_beside_its_field(
    browser: Browser, values: dict[str, str], field: str
) -> None:
    page = await browser.post("/keys/new", {"role": "user"} | values)
    assert page.status_code == 422
    assert f'id="{field}-error"' in page.text
    assert "<script>" not in page.text


async def test_usage_of_a_user_is_its_own(users_browser: Browser, browser: Browser) -> None:
    page = await users_browser.get("/usage?by=day&period=24h")
    assert page.status_code == 200
    assert "What your key, of a test, used." in page.text
    assert (await users_browser.get("/usage?key=0123456789ab")).status_code == 403
    assert (await browser.get("/usage?by=weather")).status_code == 422
    assert (await browser.get("/usage?period=all&by=hour&model=llama")).status_code == 200


@pytest.mark.usefixtures("fleet")
async def test_a_route_is_set_and_removed(browser: Browser) -> None:
    page = await browser.post("/routes", {"name": "gpt-4o", "targets": "llama=9", "fallbacks": ""})
    assert "the route gpt-4o is set" in page.text
    assert "gpt-4o" in (await browser.get("/routes")).text
    wrong = await browser.post("/routes", {"name": "gpt-4o", "targets": "nobody"})
    assert wrong.status_code == 422
    assert "there is no deployment" in wrong.text
    assert 'id="targets-error"' in wrong.text
    assert "gpt-4o is removed" in (await browser.post("/routes/gpt-4o/remove")).text


async def test_files_are_listed(browser: Browser) -> None:
    assert "No model from a hub" in (await browser.get("/files")).text
    asked = await browser.get("/files/attic/hf:org/repo@abc/file.gguf/evict")
    assert "Take this model off attic" in asked.text


async def test_the_api_is_described_to_people(lone_api: Api, strangers_browser: Browser) -> None:
    page = (await strangers_browser.get("/docs")).text
    document = (await lone_api.anyone.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    named = set(re.findall(r'href="#(shape-[^"]+)"', page))
    assert named
    assert named <= set(re.findall(r'id="([^"]+)"', page))
    assert "Sign out" not in page


async def test_behind_a_proxy_with_https_addresses_say_so(browser: Browser, strangers_browser: Browser) -> None:
    proxied = {"origin": "https://stoker.example", "host": "stoker.example", "csrf": await browser.token()}
    proxied["cookie"] = f"__Host-stoker_session={browser.session}"
    joined = await strangers_browser.post("/join", {"ttl_seconds": "600"}, **proxied)
    assert "stoker worker --server https://stoker.example --address" in joined.text
    made = await strangers_browser.post("/keys/new", {"name": "proxied", "role": "user"}, **proxied)
    assert "<code>https://stoker.example/v1</code>" in made.text


@pytest.mark.parametrize("number", ["--5", "-", "5-", "\N{ARABIC-INDIC DIGIT FIVE}", "\N{SUPERSCRIPT TWO}", "9" * 5000])
async def test_what_is_no_number_is_refused_in_its_field(browser: Browser, number: str) -> None:
    joined = await browser.post("/join", {"ttl_seconds": number})
    assert (joined.status_code, 'id="ttl_seconds-error"' in joined.text) == (422, True)
    route = await browser.post("/routes", {"name": "gpt-4o", "targets": f"llama={number}"})
    assert (route.status_code, 'id="targets-error"' in route.text) == (422, True)
