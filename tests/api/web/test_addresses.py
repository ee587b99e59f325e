"""Addresses that there are not."""

import pytest

from tests.api.serving import Api
from tests.api.test_deployments import problem_of
from tests.api.web.browsing import Browser

pytestmark = pytest.mark.anyio

AS_BROWSERS_ASK = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_people_get_a_page(browser: Browser, strangers_browser: Browser) -> None:
    for asking, home in ((browser, "/"), (strangers_browser, "/sign-in")):
        page = await asking.get("/nowhere", **AS_BROWSERS_ASK)
        assert page.status_code == 404
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "GET /nowhere: Not Found" in page.text
        assert f'href="{home}">Back to the first page' in page.text


async def test_a_page_asked_in_another_way_says_which_there_are(browser: Browser) -> None:
    page = await browser.get("/sign-out", **AS_BROWSERS_ASK)
    assert (page.status_code, page.headers["allow"]) == (405, "POST")
    assert "Method Not Allowed" in page.text


@pytest.mark.parametrize(("path", "accept"), [("/nowhere", "*/*"), ("/api/v1/nowhere", AS_BROWSERS_ASK["accept"])])
async def test_programs_get_a_problem(lone_api: Api, path: str, accept: str) -> None:
    problem_of(await lone_api.anyone.get(path, headers={"accept": accept}), 404, "not_found")
