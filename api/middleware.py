"""What every request of the management API passes on its way in, as plain ASGI: it gets an id, and HEAD becomes GET."""

import os
import re

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
