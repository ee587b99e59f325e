"""One HTTP request at this door, as ASGI gives it, and the sending of its answer."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from itertools import count
from typing import Any, Protocol

from api.openai.client_connection import ClientConnection, client_of
from api.openai.errors import APIError, Header, body_too_large, request_timed_out, unsupported_encoding

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")

_DRAINED = 4  # times the limit: so much of a body too large is read, so that its sender gets to see the answer
_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_ID_BEGINS, _NUMBERS = os.urandom(8).hex().encode(), count()  # ids of our own: of this process, and a number


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads an answer any more."""


class Abortable(Protocol):
    """What runs for a client and can be ended."""

    def abort(self) -> None:
        """Ends it at once; nothing where it has ended already."""
        ...


class Call:
    """A request, and its answer as far as it was sent."""

    __slots__ = (
        "_clock", "_receive", "_send", "added", "arrived", "begun", "client", "headers", "method", "path",
        "request_id", "sent",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, clock: Callable[[], float]) -> None:
        self._receive, self._send, self._clock = receive, send, clock
        self.arrived = clock()
        self.begun = False  # the status is sent
        self.sent = 0  # bytes of the answer's body
        self.added: Sequence[Header] = ()  # headers of the answer, whatever it will be
        self.client: ClientConnection | None = client_of(scope)
        self.method: str = scope["method"]
        root: str = scope.get("root_path", "")
        path: str = scope["path"].removeprefix(root)
        self.path = path if root.endswith("/v1") else path.removeprefix("/v1")  # mounted at /v1, or asked for all of it
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = self._id()

    def _id(self) -> bytes:
        for name in (b"x-client-request-id", b"x-request-id"):
            given = self.headers.get(name)
            if given is not None and _ID.fullmatch(given):
                return given
        return b"req_%b%016x" % (_ID_BEGINS, next(_NUMBERS))

    async def body(self, limit: int, timeout: float) -> bytes:
        """The whole body. Raises APIError when it is larger than `limit` bytes, compressed, or not there in time."""
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise unsupported_encoding(encoding.decode("latin-1"))
        if int(self.headers.get(b"content-length", b"0")) > limit * _DRAINED:
            raise body_too_large(limit, close=True)
        whole = self.client.take_body() if self.client is not None else None
        if whole is not None:
            if len(whole) > limit:
                raise body_too_large(limit)
            return whole
        pieces, size = [], 0
        try:
            async with asyncio.timeout(timeout):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    piece = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(piece)
                    if size <= limit:
                        pieces.append(piece)
                    elif size > limit * _DRAINED:
                        raise body_too_large(limit, close=True)
        except TimeoutError as error:
            raise request_timed_out(timeout) from error
        if size > limit:
            raise body_too_large(limit)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def wait_until_gone(self) -> None:
        """Returns when the client has gone, or the answer is complete. Only after `body`."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Sends status and headers."""
        await self._sent({"type": "http.response.start", "status": status, "headers": self._headed(headers)})

    def _headed(self, headers: Sequence[Header]) -> list[Header]:
        self.begun = True
        milliseconds = int((self._clock() - self.arrived) * 1000)
        return [
            *headers,
            *self.added,
            (b"x-request-id", self.request_id),
            (b"openai-processing-ms", b"%d" % milliseconds),
        ]

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Sends a piece of the body; waits while the client does not read."""
        self.sent += len(data)
        await self._sent({"type": "http.response.body", "body": data, "more_body": more})

    async def reply(self, status: int, body: bytes, headers: list[Header]) -> None:
        """Sends a whole answer. To HEAD, servers leave the body out themselves."""
        headed = self._headed([(b"content-length", b"%d" % len(body)), *headers])
        if self.client is not None and self.client.reply(status, headed, body):
            self.sent += len(body)
            return
        await self._sent({"type": "http.response.start", "status": status, "headers": headed})
        await self.write(body, more=False)

    async def refuse(self, error: APIError, *, anthropic: bool = False) -> None:
        """Sends an error as the whole answer."""
        await self.reply(error.status, error.body(anthropic=anthropic), [JSON, *error.headers])

    async def _sent(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:  # ASGI's word for a client that has gone
            raise ClientGoneError from error


class ClientWatch:
    """Ends what runs for a client at the moment that the client goes, whatever the request is waiting for just then."""

    __slots__ = ("_client", "_guarded", "_task", "gone")

    def __init__(self, call: Call) -> None:
        """Only after the call's `body`."""
        self.gone = False
        self._guarded: Abortable | None = None
        self._task: asyncio.Task[None] | None = None
        self._client = call.client
        if self._client is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(call))
        elif self._client.lost:
            self.gone = True
        else:
            self._client.listen(self._lost)

    def guard(self, running: Abortable) -> None:
        """From now on it is `running` that ends with the client."""
        self._guarded = running
        if self.gone:
            running.abort()

    def close(self) -> None:
        """Watches no longer. May be called again: then the connection may be another request's already."""
        client, self._client = self._client, None
        if client is not None:
            client.listen(None)
        elif self._task is not None:
            self._task.cancel()

    def _lost(self) -> None:
        self.gone = True
        if self._guarded is not None:
            self._guarded.abort()

    async def _watch(self, call: Call) -> None:
        await call.wait_until_gone()
        self._lost()
