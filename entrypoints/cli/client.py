"""Calls of one server's management and OpenAI routes. Whatever goes wrong is a CliError with its exit code."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from entrypoints.cli.access import Access, find_access
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.event_stream import ServerEvent, lines, server_events
from entrypoints.cli.refusals import NoAnswerError, RefusedError, no_answer, refusal
from stoker.secret_shapes import key_id_within, redacted
from stoker.version import VERSION

M = TypeVar("M", bound=BaseModel)

ANSWER_WITHIN_SECONDS = 120.0
"""Longer than the server itself waits for a model's header to be read."""

CONNECT_WITHIN_SECONDS = 10.0

SILENT_FOR_SECONDS = 45.0
"""A watch that is longer silent than this is broken: the server sends a ping every 15 s."""

RECONNECT_WITHIN_SECONDS = 60.0
"""How long a server that went away during a watch may take to come back."""

_RECONNECT_PAUSE_SECONDS = 0.5
_PAGE = 1000


class Change(NamedTuple):
    """What a watch tells: an item was `added`, `modified` or `deleted`.

    `connected`, without an item, comes first and again after each break: what was known before may be gone.
    """

    kind: str
    item: Any = None


def path(*parts: str) -> str:
    """A route of the management API; names cannot lead out of it.

    Raises CliError for a key or token: paths are logged.
    """
    for part in parts:
        if redacted(part) != part:
            key_id = key_id_within(part)
            raise CliError(
                f"that is the key itself, and was not sent: its id is {key_id}"
                if key_id
                else f"{redacted(part)} is a key or token itself, and was not sent: give its id, as it is listed",
                code=ExitCode.USAGE,
            )
    return "/".join(("/api/v1", *(quote(part, safe="") for part in parts)))


def read_as(model: type[M], data: Any) -> M:
    """An answer as the API's own schema. Fields that a newer server added are ignored."""
    return model.model_validate(data, extra="ignore")


def connect(server: str | None) -> "StokerClient":
    """A client for `--server`, or for the server of the settings. Raises CliError."""
    return StokerClient(find_access(server))


class StokerClient:
    """One server, for as long as `async with` lasts."""

    def __init__(self, access: Access) -> None:
        headers = {"user-agent": f"stoker-cli/{VERSION}"}
        if access.key:
            headers["authorization"] = f"Bearer {access.key}"
        self._access = access
        self._http = httpx.AsyncClient(
            base_url=access.url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_WITHIN_SECONDS, connect=CONNECT_WITHIN_SECONDS),
            trust_env=not access.is_local,  # a proxy of the environment must not be asked for this machine
        )

    @property
    def url(self) -> str:
        """The server's address."""
        return self._access.url

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        return self._access.is_local

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, route: str, **query: Any) -> Any:
        """What a GET answers."""
        return await self.call("GET", route, query=query)

    async def call(
        self,
        method: str,
        route: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        field_names: Mapping[str, str] | None = None,
    ) -> Any:
        """The JSON of the answer, None when it has none. `field_names`: what to call a refused field in the error."""
        try:
            response = await self._http.request(method, route, json=body, params=query)
        except httpx.HTTPError as error:
            raise no_answer(self._access, error) from error
        if not response.is_success:
            raise refusal(self._access, response, field_names)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise NoAnswerError(f"what answers at {self._access.url} is no Stoker: it sent no JSON") from error

    async def all(self, route: str, **query: Any) -> list[Any]:
        """All items of a listing, page by page."""
        items: list[Any] = []
        after = ""
        while True:
            page = await self.get(route, limit=_PAGE, after=after, **query)
            items += page["data"]
            if not page["has_more"]:
                return items
            after = page["last"]

    async def watch(self, route: str, **query: Any) -> AsyncGenerator[Change]:
        """What there is and then every change, for ever; goes on by itself when the server was away for a while."""
        loop = asyncio.get_running_loop()
        away_since = float("-inf")  # a server that does not answer at all is an error at once
        while True:
            try:
                query |= {"watch": True}
                async with self._stream("GET", route, query=query, silence=SILENT_FOR_SECONDS) as response:
                    away_since = float("inf")
                    yield Change("connected")
                    async for event in server_events(lines(response.aiter_bytes())):
                        yield Change(event.name, json.loads(event.data))
            except httpx.HTTPError as error:
                away_since = min(away_since, loop.time())
                if loop.time() - away_since > RECONNECT_WITHIN_SECONDS:
                    raise no_answer(self._access, error) from error
            except RefusedError as error:
                away_since = min(away_since, loop.time())
                if error.status < 500 or loop.time() - away_since > RECONNECT_WITHIN_SECONDS:
                    raise
            await asyncio.sleep(_RECONNECT_PAUSE_SECONDS)

    async def text(self, route: str, **query: Any) -> AsyncGenerator[str]:
        """The lines of a plain-text answer, as they come; it may go on for ever."""
        try:
            async with self._stream("GET", route, query=query) as response:
                async for line in lines(response.aiter_bytes()):
                    yield line
        except httpx.HTTPError as error:
            raise no_answer(self._access, error) from error

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[ServerEvent]:
        """The events of a streamed /v1/chat/completions."""
        try:
            async with self._stream("POST", "/v1/chat/completions", body=body) as response:
                async for event in server_events(lines(response.aiter_bytes())):
                    yield event
        except httpx.HTTPError as error:
            raise no_answer(self._access, error) from error

    @asynccontextmanager
    async def _stream(
        self, method: str, route: str, *, query: Any = None, body: Any = None, silence: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes; `silence`: for how many seconds nothing may come. None: for ever."""
        timeout = httpx.Timeout(ANSWER_WITHIN_SECONDS, connect=CONNECT_WITHIN_SECONDS, read=silence)
        async with self._http.stream(method, route, params=query, json=body, timeout=timeout) as response:
            if not response.is_success:
                await response.aread()
                raise refusal(self._access, response)
            yield response
