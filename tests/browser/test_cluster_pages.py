"""The pages of the cluster: fleet, what-if, keys, usage."""

from playwright.sync_api import Page, expect

from tests.browser.looking import faults_of_access, picture


def test_the_fleet_is_shown(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    assert faults_of_access(page) == []
    picture(page, "fleet")
