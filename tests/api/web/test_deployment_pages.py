"""The pages of deployments: what they show of the rows, and what their forms do."""

import html
import json
import re
from collections.abc import AsyncIterator

import pytest

from api.web.deployments_form import FIELDS
from stoker.domain.deployments import EngineOptions, InstanceState
from stoker.domain.keys import Role
from stoker.domain.models import ModelSource
from stoker.domain.units import GIB
from tests.api.serving import Api
from tests.api.web.browsing import Browser, new_browser
from tests.api.web.scene import deploy, gpu_host, join
from tests.builders import make_profile, make_spec
from tests.cluster import Cluster

pytestmark = pytest.mark.anyio


def text_of(page: str) -> str:
    """What people read of it, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.partition("<main")[2])).split())


def hidden(page: str, name: str) -> list[str]:
    """The values of the hidden fields of that name."""
    return [html.unescape(value) for value in re.findall(rf'type="hidden" name="{name}" value="([^"]*)"', page)]


@pytest.fixture(scope="module")
async def scene(lone_api: Api) -> None:
    """Two hosts; `spread` runs over both, `big` waits, `none` wants nothing."""
    await join(lone_api, gpu_host("attic", 12 * GIB, 12 * GIB), gpu_host("studio", 24 * GIB))
    small_cache = EngineOptions(context_length=1024, slots=1)
    deploy(lone_api, make_spec(name="spread", options=small_cache), profile=make_profile(layers=200))
    deploy(lone_api, make_spec(name="big", options=EngineOptions(context_length=65_536)))
    deploy(lone_api, make_spec(name="none", replicas=0))


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("path", ["/deployments", "/deployments/spread", "/deployments/big", "/", "/workers/attic"])
async def test_the_keyboard_reaches_what_scrolls_and_finds_it_again(browser: Browser, path: str) -> None:
    page = (await browser.get(path)).text
    boxes = re.findall(r'<div class="[^"]*scroll[^>]*>', page)
    assert boxes
    for box in boxes:
        assert re.search(r'id="[^"]+" tabindex="0" role="region" aria-label="[^"]+"', box), box
    assert 'type="submit">Apply' not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), sorted(ids)


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scene")
async def test_the_list_says_what_runs_and_why_what_waits_waits(browser: Browser) -> None:
    page = (await browser.get("/deployments")).text
    shown = text_of(page)
    assert "spread running 1 of 1" in shown
    assert "none stopped no replicas are wanted 0 of 0" in shown
    assert "big pending" in shown
    assert "Apply: " in shown
    assert {"options": {"slots": 1}} in [json.loads(value) for value in hidden(page, "change")]


@pytest.mark.usefixtures("scene")
async def test_one_deployment_is_drawn_layer_by_layer(browser: Browser) -> None:
    page = (await browser.get("/deployments/spread")).text
    strips = re.findall(r'<svg class="strip dense".*?</svg>', page, re.DOTALL)
    drawn = [len(re.findall(r'<rect class="hue-', strip)) for strip in strips]
    assert sum(drawn) == 201  # each layer, and the output, once
    assert len([count for count in drawn if count]) >= 2  # devices
    shown = text_of(page)
    assert "and the output" in shown
    assert "measured" in shown
    assert 'style="' not in page, "the security policy takes no styles of elements"


@pytest.mark.usefixtures("scene")
async def test_one_that_waits_explains_itself_in_numbers(browser: Browser) -> None:
    shown = text_of((await browser.get("/deployments/big")).text)
    assert "What would let it start" in shown
    assert "Why nowhere, in numbers" in shown
    assert "one GPU" in shown
    assert "GiB" in shown


@pytest.mark.usefixtures("scene")
async def test_histories_are_linked_where_somebody_said_where_they_are(lone_api: Api, browser: Browser) -> None:
    assert "/namespaces/" not in (await browser.get("/deployments/spread")).text
    object.__setattr__(lone_api.context, "temporal_ui", "https://temporal.example")
    try:
        page = (await browser.get("/deployments/spread")).text
    finally:
        object.__setattr__(lone_api.context, "temporal_ui", "")
    assert 'href="https://temporal.example/namespaces/default/workflows/deployment%2Fspread"' in page
    assert 'href="https://temporal.example/namespaces/default/workflows/instance%2Fspread-0abcd"' in page


@pytest.mark.usefixtures("scene")
async def test_what_happened_is_missed_while_temporal_is_away_and_nothing_else(browser: Browser) -> None:
    answer = await browser.get("/deployments/spread/events")
    assert answer.status_code == 200
    assert "kept by Temporal, which does not answer now" in text_of(answer.text)
    part = await browser.get("/deployments/spread/events", **{"hx-request": "true"})
    assert "<main" not in part.text


async def test_names_of_strangers_are_text_wherever_they_stand(lone_api: Api, browser: Browser) -> None:
    odd = make_profile(architecture="<script>alert(1)</script>")
    deploy(lone_api, make_spec(name="odd"), InstanceState.FAILED, profile=odd, message="<b>x</b> & 'y'")
    for path in ("/deployments", "/deployments/odd", "/deployments/odd/edit"):
        page = (await browser.get(path)).text
        assert "<script>alert" not in page
        assert "<b>x</b>" not in page


async def test_what_is_not_there_is_said_to_be_missing(browser: Browser) -> None:
    for path in ("/deployments/nobody", "/deployments/nobody/edit", "/deployments/nobody/events"):
        answer = await browser.get(path)
        assert answer.status_code == 404
        assert "there is no deployment 'nobody'" in text_of(answer.text)


async def test_a_part_of_a_page_whose_deployment_is_gone_leads_to_the_list(browser: Browser) -> None:
    answer = await browser.get("/deployments/nobody", **{"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (200, "/deployments")
    assert "nobody is gone" in text_of((await browser.get("/deployments")).text)
    assert (await browser.get("/deployments/nobody/events", **{"hx-request": "true"})).status_code == 204


@pytest.mark.usefixtures("scene")
async def test_only_administrators_see_and_change_deployments(users_browser: Browser) -> None:
    for path in ("/deployments", "/deployments/spread", "/deployments/-/new", "/deployments/spread/logs/spread-0abcd"):
        assert (await users_browser.get(path)).status_code == 403
    for path in ("/deployments/spread/delete", "/deployments/-/new", "/deployments/-/preview"):
        assert (await users_browser.post(path, {"name": "x"})).status_code == 403


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("path", ["/deployments/spread/scale", "/deployments/spread/delete", "/deployments/-/new"])
async def test_a_form_of_another_site_changes_nothing(browser: Browser, path: str) -> None:
    values = {"replicas": "0", "name": "spread", "model": "hf:a/b"}
    assert (await browser.post(path, values, sec_fetch_site="cross-site")).status_code == 403
    assert (await browser.post(path, values, csrf="0" * 64)).status_code == 403


async def test_a_form_with_faults_comes_back_filled_with_each_beside_its_field(browser: Browser) -> None:
    answer = await browser.post("/deployments/-/new", {"name": "My Model", "model": "smol.gguf", "slots": "0"})
    assert answer.status_code == 422
    errors = dict(re.findall(r'<p class="field-error" id="(\w+)-error">([^<]+)</p>', answer.text))
    assert set(errors) == {"name", "model", "slots"}
    assert "lower-case" in errors["name"]
    assert 'value="My Model"' in answer.text
    assert re.search(
        r'id="slots" name="slots"[^>]*aria-describedby="slots-hint slots-error" aria-invalid="true"', answer.text
    )


@pytest.mark.usefixtures("scene")
async def test_a_name_that_is_taken_is_not_overwritten_by_a_new_form(browser: Browser) -> None:
    answer = await browser.post("/deployments/-/new", {"name": "spread", "model": "hf:org/other"})
    assert answer.status_code == 422
    assert "there is a deployment spread already" in text_of(answer.text)


async def test_a_refusal_of_the_api_stands_in_the_form(browser: Browser) -> None:
    answer = await browser.post("/deployments/-/new", {"name": "lost", "model": "hf:org/lost", "distributed": "on"})
    assert answer.status_code == 503  # Temporal is away
    assert "Temporal does not answer" in text_of(answer.text)
    assert 'value="hf:org/lost"' in answer.text


@pytest.mark.usefixtures("scene")
async def test_what_a_suggestion_sends_must_be_a_change(browser: Browser) -> None:
    for change, told in (("x", "no valid JSON"), ("[1]", "an object"), ('{"slots": 1}', "slots")):
        answer = await browser.post("/deployments/big/change", {"change": change, "generation": "1"})
        assert answer.status_code == 422
        assert told in text_of(answer.text)


# --- what would come of it --------------------------------------------------------------------------------------------


async def preview(browser: Browser, **texts: str) -> str:
    answer = await browser.post("/deployments/-/preview", {"distributed": "on", "flash_attention": "on", **texts})
    assert answer.status_code == 200
    return answer.text


@pytest.mark.usefixtures("scene")
async def test_a_preview_of_a_change_says_what_differs_and_whether_instances_go(browser: Browser) -> None:
    form = {
        "editing": "spread",
        "model": str(make_spec().model),
        "replicas": "1",
        "context_length": "1024",
        "slots": "1",
    }
    page = await preview(browser, **form, priority="5")
    shown = text_of(f"<main{page}")
    assert "Fits now" in shown
    assert "priority : 0 → 5" in shown
    assert "Its instances stay as they are" in shown
    page = await preview(browser, **form | {"context_length": "2048"})
    assert "replaced one by one" in text_of(f"<main{page}")


@pytest.mark.usefixtures("scene")
async def test_a_preview_of_what_does_not_fit_offers_changes_of_the_form(browser: Browser) -> None:
    form = {"editing": "big", "model": str(make_spec().model), "context_length": "65536", "slots": "4"}
    page = await preview(browser, **form)
    assert "Does not fit now" in page
    fields = [json.loads(html.unescape(one)) for one in re.findall(r'data-fields="([^"]*)"', page)]
    assert fields
    assert all(one.keys() <= set(FIELDS) for one in fields)


async def test_a_preview_names_faults_of_what_was_filled_and_leaves_the_rest_alone(browser: Browser) -> None:
    page = await preview(browser, slots="0")
    errors = dict(re.findall(r'id="(\w+)-error" hx-swap-oob="true">([^<]*)</p>', page))
    assert errors["slots"]
    assert (errors["name"], errors["model"]) == ("", "")
    page = await preview(browser, model="hf:org/lost")  # the hub is away
    errors = dict(re.findall(r'id="(\w+)-error" hx-swap-oob="true">([^<]*)</p>', page))
    assert errors["model"]


async def test_an_empty_form_asks_for_a_model(browser: Browser) -> None:
    assert "Name a model" in await preview(browser)
    page = (await browser.get("/deployments/-/new?model=hf:org/repo&replicas=2&csrf=x")).text
    assert 'value="hf:org/repo"' in page
    assert 'value="2"' in page


# --- with everything behind it ----------------------------------------------------------------------------------------


@pytest.fixture
async def clusters_browser(api: Api) -> AsyncIterator[Browser]:
    """In which an administrator of the real cluster is signed in."""
    _, key = api.key(Role.ADMIN)
    await api.context.keyring.refresh()
    browser = new_browser(api)
    await browser.sign_in(key)
    yield browser
    await browser.client.aclose()


async def test_from_the_form_to_the_end(clusters_browser: Browser, cluster: Cluster, tiny_model: ModelSource) -> None:
    browser = clusters_browser
    form = {"model": str(tiny_model), "replicas": "1", "slots": "1", "distributed": "on", "flash_attention": "on"}

    page = await preview(browser, **form)
    assert "Fits now" in page
    made = await browser.post("/deployments/-/new", {"name": "paged", **form})
    assert made.url.path == "/deployments/paged"
    assert "eploying paged" in text_of(made.text)
    (instance,) = await cluster.instances_in("paged", [InstanceState.RUNNING])

    shown = await browser.get("/deployments/paged/events")
    assert "running" in text_of(shown.text)
    log = await browser.get(f"/deployments/paged/logs/{instance.instance_id}")
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert "listening" in log.text
    assert (await browser.get(f"/deployments/other/logs/{instance.instance_id}")).status_code == 404

    filled = await browser.get("/deployments/paged/edit")
    (generation,) = hidden(filled.text, "generation")
    changed = await browser.post("/deployments/paged/edit", {**form, "priority": "7", "generation": generation})
    assert changed.url.path == "/deployments/paged"
    assert "priority 7" in text_of(changed.text)
    again = await browser.post("/deployments/paged/edit", {**form, "priority": "8", "generation": generation})
    assert again.status_code == 412, "somebody has changed it since the form was filled"

    assert "priority : 0 → 7" in text_of(changed.text)
    undone = await browser.post("/deployments/paged/undo", {"generation": generation})
    assert f"eneration {generation} of paged is wanted again" in text_of(undone.text)
    assert "priority : 7 → 0" in text_of(undone.text)
    nothing = await browser.post("/deployments/paged/undo", {"generation": "99"})
    assert (nothing.status_code, "no revision of generation 99" in text_of(nothing.text)) == (404, True)

    scaled = await browser.post("/deployments/paged/scale", {"replicas": "0"})
    assert "0 replicas of paged wanted" in text_of(scaled.text)
    gone = await browser.post("/deployments/paged/delete")
    assert gone.url.path == "/deployments"
    await cluster.gone("paged")
