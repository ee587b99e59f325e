"""The pages of the cluster in a real browser: the main job of each, pictures of them, and nothing in the console."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, StorageState, expect

from tests.browser.conftest import MODELS
from tests.browser.looking import Console, faults_of_access, picture, sign_in
from tests.e2e.system import System
from tests.e2e.test_second_machine import agent

DEPLOYED = "tiny"
MOVED_WITHIN = 60_000  # milliseconds


@pytest.fixture(scope="module")
def deployed(system: System, tiny: Path) -> str:
    """A deployment that runs."""
    with system.api() as api:
        api.post("/deployments", json={"name": DEPLOYED, "model": f"file:{tiny}"}).raise_for_status()
    system.running(DEPLOYED)
    return DEPLOYED


def test_signing_in(browser: Browser, system: System) -> None:
    context = browser.new_context(base_url=system.url)
    page = context.new_page()
    console = Console(expected={401})
    console.listen(page)
    page.goto("/keys")
    assert faults_of_access(page) == []
    picture(page, "sign-in")
    page.get_by_label("API key").fill("sk-stoker-of-nobody")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("API key").fill(system.admin_key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()
    assert console.complaints == []


def test_the_fleet_shows_changes_by_itself(page: Page, system: System, deployed: str) -> None:
    page.goto("/")
    worker = page.get_by_role("article", name="box-1")
    expect(worker).to_contain_text("ready")
    expect(worker.get_by_role("img").first).to_have_attribute("aria-label", re.compile("claimed, .* free"))
    assert faults_of_access(page) == []
    picture(page, "fleet")
    drain = page.get_by_role("link", name="Drain… box-1")
    drain.focus()
    with system.api() as api:
        api.post("/workers/box-1/cordon").raise_for_status()
    expect(worker).to_contain_text("cordoned")  # nobody has loaded the page again
    expect(drain).to_be_focused()
    page.get_by_role("button", name="Uncordon box-1").click()
    expect(page.get_by_text("box-1 gets new instances again")).to_be_visible()
    expect(worker).to_contain_text("ready")


def test_a_change_while_another_is_fetched_is_not_lost(page: Page, system: System) -> None:
    held: list[Route] = []
    page.route("**/live?*", lambda route: route.fulfill(content_type="text/event-stream", body=""))  # we tell it
    page.goto("/files")
    page.route(f"{system.url}/files", lambda route: held.append(route))
    page.evaluate("document.body.dispatchEvent(new CustomEvent('live:files'))")
    _until(page, lambda: len(held) == 1)
    page.evaluate("for (const _ of [1, 2]) document.body.dispatchEvent(new CustomEvent('live:files'))")
    held[0].continue_()
    _until(page, lambda: len(held) == 2)
    held[1].continue_()
    expect(page.get_by_text("No model from a hub")).to_be_visible()


def test_what_was_not_swapped_leaves_nothing_for_later(page: Page) -> None:
    """A section that could not be fetched, whose details somebody closes, stays so when another section comes anew."""
    page.goto("/files")
    opened = page.evaluate("""() => {
        const make = () => document.querySelector("main").appendChild(document.createElement("div"));
        const tell = (kind, target, shouldSwap) =>
            target.dispatchEvent(new CustomEvent(kind, {bubbles: true, detail: {target, shouldSwap}}));
        const [failed, other] = [make(), make()];
        failed.innerHTML = "<details id='some' open></details>";
        tell("htmx:beforeSwap", failed, false);
        failed.firstChild.open = false;
        tell("htmx:beforeSwap", other, true);
        tell("htmx:afterSwap", other, true);
        return failed.firstChild.open;
    }""")
    assert opened is False


def _until(page: Page, met: Callable[[], bool]) -> None:
    for _ in range(200):
        if met():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it never came")


def test_a_session_that_ended_while_nobody_looked(browser: Browser, system: System) -> None:
    context = browser.new_context(base_url=system.url)
    page = context.new_page()
    sign_in(page, system.admin_key)
    page.route("**/live?*", lambda route: route.abort())  # as where the page was hidden: it does not listen
    page.reload()
    expect(page.get_by_text("The server does not answer.")).to_be_visible()
    context.clear_cookies()
    page.unroute("**/live?*")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()


def test_what_if(page: Page, deployed: str, tiny: Path) -> None:
    page.goto("/what-if")
    page.get_by_label("a model were deployed").check()
    page.get_by_label("Model", exact=True).fill(f"file:{tiny}")
    page.get_by_label("Replicas").fill("2")
    page.get_by_label("Added").fill("2x24GiB")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("It fits: 2 replicas would have a place.")).to_be_visible()
    expect(page.get_by_role("cell", name="plus-1/gpu0")).to_be_visible()
    assert faults_of_access(page) == []
    picture(page, "what-if")
    page.get_by_label("a worker were drained").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("1 instance would move, and it has a place elsewhere.")).to_be_visible()


def test_a_key_is_made_used_and_revoked(browser: Browser, page: Page, system: System, deployed: str) -> None:
    page.goto("/keys")
    page.get_by_role("link", name="New key…").click()
    assert faults_of_access(page) == []
    picture(page, "key-new")
    page.get_by_label("Name").fill("chat app")
    page.get_by_label("Requests a minute").fill("600")
    page.get_by_role("button", name="Make the key").click()
    key = page.get_by_label("API key").inner_text()
    assert key.startswith("sk-stoker-")
    system.openai(api_key=key).completions.create(model=deployed, prompt="a", max_tokens=4)

    context = browser.new_context(base_url=system.url)
    theirs = context.new_page()
    console = Console(expected={403})
    console.listen(theirs)
    sign_in(theirs, key, "/usage")
    expect(theirs.get_by_text("What your key, chat app, used.")).to_be_visible()
    expect(theirs.get_by_role("link", name="Keys")).to_have_count(0)
    theirs.goto("/keys")
    expect(theirs.get_by_role("alert")).to_contain_text("needs admin")

    page.get_by_role("link", name="All keys").click()
    assert faults_of_access(page) == []
    picture(page, "keys")
    page.get_by_role("link", name="chat app").click()
    expect(page.get_by_label("Requests a minute")).to_have_value("600")
    page.get_by_role("button", name="Revoke chat app").click()
    expect(page.get_by_text("the key chat app is revoked")).to_be_visible()
    theirs.goto("/usage")
    expect(theirs.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()
    assert console.complaints == []


def test_usage_by_model_and_over_time(page: Page, system: System, deployed: str) -> None:
    system.openai().completions.create(model=deployed, prompt="a", max_tokens=4)
    model = page.get_by_role("rowheader", name=deployed)
    for _ in range(40):  # what has just ended comes in within two seconds
        page.goto("/usage?period=24h")
        if model.count():
            break
        page.wait_for_timeout(250)
    expect(model).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Tokens from"))).to_be_visible()
    assert faults_of_access(page) == []
    picture(page, "usage")
    page.get_by_label("By", exact=True).select_option("day")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("rowheader", name=re.compile(r"\d{4}-\d\d-\d\d"))).to_be_visible()


def test_other_names_and_files(page: Page, deployed: str) -> None:
    page.goto("/routes")
    page.get_by_label("Name").fill("gpt-4o")
    page.get_by_label("Leads to").fill(deployed)
    page.get_by_role("button", name="Set the route").click()
    expect(page.get_by_role("rowheader", name="gpt-4o")).to_be_visible()
    assert faults_of_access(page) == []
    picture(page, "routes")
    page.get_by_role("button", name="Remove gpt-4o").click()
    expect(page.get_by_text("the route gpt-4o is removed")).to_be_visible()
    page.goto("/files")
    expect(page.get_by_text("No model from a hub")).to_be_visible()
    assert faults_of_access(page) == []


def test_without_scripts(browser: Browser, system: System, admin_session: StorageState) -> None:
    context = browser.new_context(base_url=system.url, java_script_enabled=False, storage_state=admin_session)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name="Cordon box-1", exact=True).click()
    expect(page.get_by_text("box-1 is cordoned")).to_be_visible()
    page.get_by_role("button", name="Uncordon box-1").click()
    expect(page.get_by_text("box-1 gets new instances again")).to_be_visible()
    context.close()


def test_the_api_is_described(page: Page, context: BrowserContext, system: System) -> None:
    context.route(re.compile(f"^(?!{re.escape(system.url)})"), lambda route: route.abort())  # as where there is no net
    page.goto("/keys")
    page.get_by_role("link", name="API", exact=True).click()
    page.get_by_text("POST /api/v1/deployments", exact=True).click()
    page.get_by_role("link", name="DeploymentCreate").first.click()
    expect(page.get_by_role("heading", name="DeploymentCreate")).to_be_in_viewport()
    assert faults_of_access(page) == []


def test_the_keyboard_reaches_the_content_at_once(page: Page) -> None:
    page.goto("/keys")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New key…")).to_be_focused()


def test_a_worker_joins_is_drained_and_removed(page: Page, system: System, tiny: Path, tmp_path: Path) -> None:
    page.goto("/")
    page.get_by_role("link", name="Add a worker…").click()
    page.get_by_role("button", name="Make a token").click()
    token = page.get_by_label("Join token").inner_text()
    assert faults_of_access(page) == []
    page.get_by_role("link", name="Back to the fleet").click()
    instance = page.get_by_role("row", name=re.compile(r"moving-.* running"))
    arguments = ["--model-dir", system.environment[MODELS], "--offer", "cpu=2GiB"]
    with agent(system, tmp_path / "box-2", "box-2", token, *arguments):
        expect(page.get_by_role("article", name="box-2")).to_contain_text("ready", timeout=MOVED_WITHIN)  # told live
        with system.api() as api:  # a file can move to the workers that were seen to have it when it was deployed
            api.post("/deployments", json={"name": "moving", "model": f"file:{tiny}"}).raise_for_status()
            (moving,) = system.running("moving")
            assert moving["placement"]["worker"] == "box-2", "spread: more of what it offers is free"

        page.get_by_role("link", name="box-2", exact=True).click()
        expect(instance).to_be_visible()
        assert faults_of_access(page) == []
        picture(page, "worker")
        page.get_by_role("link", name="Drain…").click()
        expect(page.get_by_text("1 instance would move, and it has a place elsewhere.")).to_be_visible()
        assert faults_of_access(page) == []
        picture(page, "drain")
        page.get_by_role("button", name="Drain box-2").click()
        expect(page.get_by_text("box-2 is being drained: 1 instance to move")).to_be_visible()
        expect(page.get_by_text("Nothing is placed here.")).to_be_visible(timeout=MOVED_WITHIN)
        page.get_by_role("link", name="Remove…").click()
        page.get_by_role("button", name="Remove box-2").click()
        expect(page.get_by_text("box-2 is removed")).to_be_visible()
        expect(page.get_by_role("article", name="box-2")).to_have_count(0)
    system.running("moving")
