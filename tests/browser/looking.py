"""How tests look at pages: their console, whether everyone can use them, and pictures of them for the docs."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import ConsoleMessage, Page

AXE = Path(__file__).parent / "axe.min.js"
IMAGES = Path(__file__).parents[2] / "docs" / "images"

_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@dataclass
class Console:
    """Errors of a page's scripts, what its security policy refused, and requests that failed."""

    complaints: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)  # statuses that the test asks for

    def listen(self, page: Page) -> None:
        """Hears all that `page` says from now on."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        refused = _REFUSED.search(message.text)
        if refused is not None and int(refused[1]) in self.expected:
            return
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url')})")


def sign_in(page: Page, key: str, then: str = "/") -> None:
    """As people do who asked for the page `then`."""
    page.goto(then)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()


def faults_of_access(page: Page) -> list[str]:
    """What axe finds serious: rule, what it is about, and where. In light and in dark."""
    found = []
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour in between
        page.evaluate(AXE.read_text() + "\n;undefined")
        result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            f"{scheme}: {violation['id']}: {violation['help']}: {node['html'][:200]}"
            for violation in result["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
    page.emulate_media(color_scheme=None)
    return found


def picture(page: Page, name: str) -> None:
    """Keeps `docs/images/NAME-{light,dark}.png`, when SCREENSHOTS=1 asks for it."""
    if os.environ.get("SCREENSHOTS") != "1":
        return
    IMAGES.mkdir(exist_ok=True)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour in between
        page.screenshot(path=IMAGES / f"{name}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme=None)
