"""A browser without scripts: it keeps cookies, follows redirects, and says where a form came from."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from api.web.session import COOKIE
from tests.api.serving import Api


@dataclass
class Browser:
    """One person's."""

    client: httpx.AsyncClient

    @property
    def session(self) -> str | None:
        """The cookie of whoever is signed in."""
        return next((value for name, value in self.client.cookies.items() if name.startswith(COOKIE)), None)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page, after redirects."""
        return await self.client.get(path, headers=headers)

    async def post(
        self, path: str, values: dict[str, Any] | None = None, *, csrf: str | None = None, **headers: str
    ) -> httpx.Response:
        """Sends a form as a browser on one of our pages does. Without `csrf`, its token is taken from a page."""
        if csrf is None:
            csrf = await self.token() if self.session else ""
        sent = {"origin": str(self.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            path,
            content=urlencode({**(values or {}), "csrf": csrf}, doseq=True),
            headers={name: value for name, value in sent.items() if value} | {"content-type": FORM},
        )

    async def token(self) -> str:
        """What the forms of this session send back."""
        page = await self.get("/usage")
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
        assert found is not None, page.text
        return found[1]

    async def sign_in(self, key: str) -> httpx.Response:
        """With a key."""
        return await self.post("/sign-in", {"key": key})


FORM = "application/x-www-form-urlencoded"


def new_browser(api: Api) -> Browser:
    """One in which nobody is signed in."""
    return Browser(httpx.AsyncClient(base_url=api.url, follow_redirects=True, timeout=60.0, trust_env=False))
