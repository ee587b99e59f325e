"""HTTP to the workers' agents: to one on this machine directly, to any other through its gateway."""

from collections.abc import AsyncIterator

import httpx

from api.openai.connection import ConnectError, DeadlineError, UpstreamError
from api.openai.exchange import Exchange, Timeouts
from api.openai.upstream import Pool

WAY = "way"
"""The extension of a request that says which way it takes (`stoker.mesh.ways.Way`)."""

_NO_LIMIT = 86_400.0  # seconds: of a wait that the client's going ends


def agents_client(pool: Pool) -> httpx.AsyncClient:
    """The client for all agents. Each request names its `WAY`; the host in its URL is for show."""
    return httpx.AsyncClient(transport=_AgentTransport(pool), timeout=10.0, trust_env=False)


class _AgentTransport(httpx.AsyncBaseTransport):
    """Our own small client below httpx: it knows the way through gateways."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions.get("timeout", {})
        read = limits.get("read") or _NO_LIMIT
        timeouts = Timeouts(connect=limits.get("connect") or _NO_LIMIT, first_byte=read, idle=read)
        own = (b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding")
        headers = [(name.lower(), value) for name, value in request.headers.raw if name.lower() not in own]
        path = request.url.raw_path.decode("ascii")
        exchange = self._pool.exchange(
            request.extensions[WAY], request.method, path, headers, await request.aread(), timeouts=timeouts
        )
        try:
            await exchange.start()
        except UpstreamError as error:
            raise _as_httpx(error, request) from error
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange, request))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: Exchange, request: httpx.Request) -> None:
        self._exchange, self._request = exchange, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._exchange.read():
                yield data
        except UpstreamError as error:
            raise _as_httpx(error, self._request) from error

    async def aclose(self) -> None:
        self._exchange.abort()


def _as_httpx(error: UpstreamError, request: httpx.Request) -> httpx.TransportError:
    if isinstance(error, ConnectError):
        return httpx.ConnectError(str(error), request=request)
    if isinstance(error, DeadlineError):
        return httpx.ReadTimeout(str(error), request=request)
    return httpx.ReadError(str(error), request=request)
