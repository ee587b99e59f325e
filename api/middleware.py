"""What every request of the management API passes on its way in, as plain ASGI: an id, a limit on its body, HEAD."""

import asyncio
import os
import re

import structlog
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
"""Far more than a worker with a hundred devices reports. Bodies are read before anybody asks for the key."""

BODY_SECONDS = 60.0
"""For a whole body. Who never ends one would else keep a connection for good."""

_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def identified(app: ASGIApp) -> ASGIApp:
    """Gives each request an id (`X-Request-ID`: the client's own, if it sent a sound one) that our logs name too."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else b"req_" + os.urandom(16).hex().encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            await app(scope, receive, send_with_id)

    return wrapped


def limited(app: ASGIApp) -> ASGIApp:
    """Refuses a body above MAX_BODY_BYTES (413) where it is read, whether its length was announced or not, and one that
    is not whole within BODY_SECONDS (408)."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        announced = int(dict(scope["headers"]).get(b"content-length", b"0"))
        size, whole, deadline = 0, False, asyncio.get_running_loop().time() + BODY_SECONDS

        async def receive_limited() -> Message:
            nonlocal size, whole
            if whole:  # what still comes is that the client goes
                return await receive()
            # FastAPI lets this type through to the application's own handler; the server drops what still comes.
            try:
                async with asyncio.timeout_at(deadline):
                    message: Message = {} if announced > MAX_BODY_BYTES else await receive()
            except TimeoutError:
                raise HTTPException(408, f"its body was not complete within {BODY_SECONDS:g} s") from None
            size += len(message.get("body", b""))
            if max(announced, size) > MAX_BODY_BYTES:
                raise HTTPException(413, f"its body is larger than {MAX_BODY_BYTES} bytes")
            whole = not message.get("more_body", False)
            return message

        await app(scope, receive_limited, send)

    return wrapped


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Answers HEAD with the headers that GET has. What GET would stream for ever ends with them."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})

        await app({**scope, "method": "GET"}, receive, send_head)

    return wrapped
