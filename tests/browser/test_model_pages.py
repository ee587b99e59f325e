"""The pages of models: deployed from the form, watched while it starts, talked to, waiting and helped, deleted."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as BrowserTimeoutError

from tests.browser.looking import faults_of_access, picture
from tests.builders import write_tiny_llama
from tests.e2e.system import System, running_system

STARTED_MS = 90_000  # an engine may take so long to start on a busy machine
SETTLED_MS = 30_000

COUNT_ANNOUNCEMENTS = """
window.announced = 0;
for (const one of document.querySelectorAll("main :is([role=status], [aria-live=polite])"))
  new MutationObserver(() => window.announced++).observe(one, {childList: true, characterData: true, subtree: true});
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, and one of 24 layers whose cache is larger than it."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_llama(folder / "tiny.gguf")
    write_tiny_llama(folder / "deep.gguf", layers=24, embedding=128, heads_kv=4, feed_forward=64, seed=1)
    return folder


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A running system whose one worker has little room."""
    arguments = ["--model-dir", str(models), "--worker-name", "box-1", "--offer", "cpu=2500MiB"]
    with running_system(tmp_path_factory.mktemp("system"), *arguments) as running:
        yield running


def fill_new(page: Page, name: str, model: Path, **numbers: int) -> None:
    """The form of a new deployment."""
    page.goto("/deployments")
    page.get_by_role("link", name="Deploy a model").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Model", exact=True).fill(f"file:{model}")
    for label, number in numbers.items():
        page.get_by_label(label.capitalize(), exact=True).fill(str(number))


def stop_in_mid_answer(page: Page, talk: Locator) -> None:
    """Asks, and stops the answer. The tiny model writes all of it within seconds: where it is quicker, once more."""
    for _ in range(5):
        page.get_by_role("button", name="Start anew").click()
        page.get_by_label("What to say to all of them").fill("Go on.")
        page.get_by_role("button", name="Send").click()
        expect(talk.locator(".said.assistant")).to_have_text(re.compile(r"\w"), timeout=SETTLED_MS)
        with suppress(BrowserTimeoutError):
            page.get_by_role("button", name="Stop").click(timeout=1000)
            return
    raise AssertionError("each of five answers was over before it could be stopped")


def test_a_model_is_deployed_talked_to_and_deleted(page: Page, models: Path) -> None:
    """Also that another one waits, says why, and starts once the change that it suggests is applied."""
    fill_new(page, "smol", models / "tiny.gguf", slots=0)
    preview = page.get_by_role("region", name="What would come of it")
    expect(preview).to_contain_text("Not as it is", timeout=SETTLED_MS)
    expect(page.locator("#slots-error")).to_contain_text("greater than or equal to 1")
    expect(page.get_by_label("Slots", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Slots", exact=True).fill("2")
    expect(preview).to_contain_text("Fits now", timeout=SETTLED_MS)
    expect(page.locator("#slots-error")).to_be_empty()
    expect(preview).to_contain_text("layers 1 to 2 and the output")
    assert faults_of_access(page) == []
    picture(page, "deploy")
    page.get_by_role("button", name="Deploy", exact=True).click()

    # It starts before our eyes: the page is not loaded again.
    expect(page.get_by_role("heading", name="smol", exact=True)).to_be_visible()
    one = page.locator("#deployment")
    expect(one).to_contain_text("1 of 1 running", timeout=STARTED_MS)
    expect(one.get_by_role("cell", name="measured").first).to_be_visible(timeout=SETTLED_MS)
    expect(page.locator("#events")).to_contain_text("answers on box-1", timeout=SETTLED_MS)
    page.get_by_role("link", name="Log").click()
    expect(page.locator("#log")).to_contain_text("listening", timeout=SETTLED_MS)
    assert faults_of_access(page) == []
    picture(page, "deployment")

    page.get_by_role("link", name="Try it").click()
    page.get_by_role("button", name="Add a model").click()
    page.get_by_text("Settings").click()
    page.get_by_label("Tokens at most").fill("24")
    page.get_by_label("What to say to all of them").fill("Tell me something.")
    page.evaluate(COUNT_ANNOUNCEMENTS)
    page.keyboard.press("Enter")
    talks = page.locator(".talk")
    for number in range(2):
        expect(talks.nth(number).locator(".said.assistant")).to_have_text(re.compile(r"\w"), timeout=SETTLED_MS)
        expect(talks.nth(number).get_by_role("status")).to_contain_text("24 tokens", timeout=SETTLED_MS)
        expect(talks.nth(number).get_by_role("status")).to_contain_text("tokens/s")
    assert page.evaluate("window.announced") <= 4, "an answer is announced when it is there, not token by token"
    assert faults_of_access(page) == []
    picture(page, "playground")

    # Who stops, stops the engine too: the proxy tells of a client that left.
    talks.nth(1).get_by_role("button", name="Remove").click()
    page.get_by_label("Tokens at most").fill("1900")
    stop_in_mid_answer(page, talks.nth(0))
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.goto("/deployments/smol")
    expect(page.locator("#requests")).to_contain_text("client left", timeout=SETTLED_MS)

    fill_new(page, "greedy", models / "deep.gguf", slots=128)
    expect(preview).to_contain_text("Does not fit now", timeout=SETTLED_MS)
    page.get_by_role("button", name="Deploy", exact=True).click()
    expect(one).to_contain_text("What would let it start", timeout=STARTED_MS)
    apply = page.get_by_role("button", name=re.compile("Apply: ")).first
    apply.focus()
    page.evaluate("document.activeElement.dataset.old = ''; document.body.dispatchEvent(new Event('live:deployment'))")
    expect(apply).not_to_have_attribute("data-old", "")  # it came anew
    expect(apply).to_be_focused()
    page.get_by_text("Why nowhere, in numbers").click()
    expect(one).to_contain_text("Ways to place it")
    assert faults_of_access(page) == []
    picture(page, "pending")
    page.goto("/deployments")
    page.get_by_role("button", name=re.compile("Apply: slots 128")).click()
    expect(one).to_contain_text("1 of 1 running", timeout=STARTED_MS)
    expect(one).to_contain_text("Generation 2")

    page.goto("/deployments/smol")
    expect(page.locator("#requests")).to_contain_text("/chat/completions")
    page.get_by_role("link", name="Change", exact=True).click()
    page.get_by_label("Priority", exact=True).fill("5")
    expect(preview).to_contain_text("priority: 0 → 5", timeout=SETTLED_MS)
    expect(preview).to_contain_text("Its instances stay as they are")
    page.get_by_role("button", name="Change smol").click()
    expect(one).to_contain_text("priority 5")

    page.goto("/deployments")
    assert faults_of_access(page) == []
    picture(page, "deployments")
    for name in ("smol", "greedy"):
        page.goto(f"/deployments/{name}")
        page.get_by_text(f"Delete {name}", exact=True).click()
        page.get_by_role("button", name=f"Delete {name} now").click()
    expect(page.locator("#deployments")).to_contain_text("Nothing is deployed yet", timeout=STARTED_MS)


def test_a_page_of_a_deployment_that_goes_leads_back_to_the_list(page: Page, system: System, models: Path) -> None:
    with system.api() as api:
        body = {"name": "brief", "model": f"file:{models / 'tiny.gguf'}", "replicas": 0}
        api.post("/deployments", json=body).raise_for_status()
        page.goto("/deployments/brief")
        expect(page.locator("#deployment")).to_contain_text("stopped")
        api.delete("/deployments/brief").raise_for_status()
    page.wait_for_url("**/deployments", timeout=SETTLED_MS)
