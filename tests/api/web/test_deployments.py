"""Many deployments, and many replicas of one: pages stay short."""

import html
import re

import pytest

from api.web.deployments import INSTANCES_SHOWN, ON_A_PAGE
from stoker.domain.units import GIB
from tests.api.serving import Api
from tests.api.web.browsing import Browser
from tests.api.web.scene import deploy, gpu_host, join
from tests.builders import make_spec

pytestmark = pytest.mark.anyio


async def test_many_are_shown_page_by_page(lone_api: Api, browser: Browser) -> None:
    for number in range(ON_A_PAGE + 2):
        deploy(lone_api, make_spec(name=f"many-{number:02}", replicas=0))
    first = (await browser.get("/deployments?name=many-")).text
    shown = re.findall(r'id="to-(many-[0-9]+)"', first)
    assert (len(shown), shown[-1]) == (ON_A_PAGE, f"many-{ON_A_PAGE - 1}")
    (more,) = re.findall(r'id="more" href="([^"]+)"', first)
    rest = (await browser.get(html.unescape(more))).text
    assert re.findall(r'id="to-(many-[0-9]+)"', rest) == [f"many-{ON_A_PAGE}", f"many-{ON_A_PAGE + 1}"]
    assert "No deployment of this name." in (await browser.get("/deployments?name=nobody")).text


async def test_many_instances_are_not_all_drawn(lone_api: Api, browser: Browser) -> None:
    await join(lone_api, gpu_host("hall", 24 * GIB))
    deploy(lone_api, make_spec(name="crowd", replicas=INSTANCES_SHOWN + 3))
    page = (await browser.get("/deployments/crowd")).text
    assert len(re.findall(r"<article", page)) == INSTANCES_SHOWN
    assert "and 3 more, which stoker describe crowd shows." in re.sub(r"<[^>]+>", "", page)
