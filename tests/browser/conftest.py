"""A real browser on the real system: Debian's Chromium, driven by Playwright, and one `stoker up` a file of tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, sync_playwright

from tests.browser.looking import Console, sign_in
from tests.builders import write_tiny_llama
from tests.e2e.system import System, running_system

INSTALL_SECONDS = 300.0
MODELS = "STOKER_TEST_MODELS"
"""Of a system's environment: the folder with the models that its worker reads."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an end-to-end test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program. Where it is missing and we may, it is installed; else the tests are skipped."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        for command in (["apt-get", "update", "-q"], install):
            subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=False)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium here, and it could not be installed: `apt-get install chromium`")
    return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One running system for a whole file of tests; each test leaves it as it found it."""
    folder = tmp_path_factory.mktemp("system")
    models = tmp_path_factory.mktemp("models")
    write_tiny_llama(models / "tiny.gguf")
    arguments = ["--model-dir", str(models), "--worker-name", "box-1"]
    with running_system(folder, *arguments, environment={MODELS: str(models)}) as running:
        yield running


@pytest.fixture(scope="module")
def tiny(system: System) -> Path:
    """A model that loads in a blink, in a folder that the system's worker reads."""
    return Path(system.environment[MODELS]) / "tiny.gguf"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """For a file of tests, not for all: while it is open, no other event loop runs in this thread."""
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that root in a container has not.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def admin_session(browser: Browser, system: System) -> StorageState:
    """The cookies of an administrator, who signed in as people do."""
    context = browser.new_context(base_url=system.url)
    page = context.new_page()
    sign_in(page, system.admin_key)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(browser: Browser, system: System, admin_session: StorageState) -> Iterator[BrowserContext]:
    """An administrator's window."""
    opened = browser.new_context(
        base_url=system.url, storage_state=admin_session, viewport={"width": 1280, "height": 800}
    )
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


@pytest.fixture
def console() -> Console:
    """What the browser complained about."""
    return Console()


@pytest.fixture
def page(context: BrowserContext, console: Console) -> Iterator[Page]:
    """A page in it. At the end nothing may be in its console that the test did not expect."""
    opened = context.new_page()
    console.listen(opened)
    yield opened
    opened.close()
    assert console.complaints == []
