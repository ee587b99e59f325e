"""The door that applications knock on: an ASGI app of its own, with no framework between it and the server."""

import json
import time
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import structlog

from api.openai.admission import OPEN_GATE, Gate
from api.openai.auth import Authenticate, Principal, key_of
from api.openai.call import JSON, Call, ClientGoneError, Receive, Scope, Send
from api.openai.endpoints import ENDPOINTS
from api.openai.errors import (
    APIError,
    internal_error,
    invalid_api_key,
    method_not_allowed,
    model_not_allowed,
    unknown_url,
)
from api.openai.metering import Metrics
from api.openai.names import created_at
from api.openai.openapi import DOCUMENT_PATH, document_bytes
from api.openai.proxy import Proxy, ProxyLimits
from api.openai.queueing import Asked
from api.openai.router import RouteSource, RouteTable
from api.openai.upstream import Pool
from api.openai.waking import NOBODY_WAKES, Wakes
from stoker.secret_shapes import redacted

_log = structlog.get_logger()

_MODELS = "/models"


class OpenAIApp:
    """Everything under /v1. Mount it there, or put it `beside` the rest."""

    def __init__(
        self,
        routes: RouteSource,
        authenticate: Authenticate,
        pool: Pool,
        metrics: Metrics,
        *,
        limits: ProxyLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        gate: Gate = OPEN_GATE,
        processes: int = 1,
        wakes: Wakes = NOBODY_WAKES,
    ) -> None:
        """`metrics` and this must share the `clock`, which returns seconds that only grow.

        `processes`: so many doors, this one counted, share the engines and their queues.
        """
        self._authenticate, self._metrics, self._clock = authenticate, metrics, clock
        self._proxy = Proxy(routes, pool, metrics, limits or ProxyLimits(), clock, gate, processes, wakes)

    def asked(self) -> Mapping[str, Asked]:
        """What is asked of each deployment. May be asked from another thread."""
        return self._proxy.queues.asked()

    def on_behalf_of(self, principal: Principal) -> "OpenAIApp":
        """The same door, with the same engines, queues and counts, for one who was let in without a key: a session."""
        door = copy(self)
        door._authenticate = lambda _: principal
        return door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        try:
            await self._answer(Call(scope, receive, send, self._clock))
        except ClientGoneError:
            return  # nobody is left to be told

    async def _answer(self, call: Call) -> None:
        try:
            await self._dispatch(call)
        except ClientGoneError:
            raise
        except APIError as error:
            self._metrics.refused(error.status)
            await call.refuse(error, anthropic=_is_anthropic(call))
        except Exception:  # the last guard: whatever is wrong with us, clients get the shape they can read
            _log.exception("request_crashed", request_id=call.request_id.decode(), path=redacted(call.path))
            if call.begun:
                raise
            self._metrics.refused(500)
            await call.refuse(internal_error(), anthropic=_is_anthropic(call))

    async def _dispatch(self, call: Call) -> None:
        endpoint = ENDPOINTS.get(call.path)
        if endpoint is not None and call.method == "POST":
            await self._proxy.answer(call, endpoint, self._principal(call))
            return
        is_models = call.path == _MODELS or (call.path.startswith(f"{_MODELS}/") and len(call.path) > len(_MODELS) + 1)
        is_document = call.path == DOCUMENT_PATH
        if endpoint is None and not is_models and not is_document:
            raise unknown_url(call.method, f"/v1{call.path}")
        allowed = ("POST",) if endpoint is not None else ("GET", "HEAD")
        if call.method == "OPTIONS":
            await call.begin(204, [(b"allow", ", ".join((*allowed, "OPTIONS")).encode())])
            await call.write(b"", more=False)
            return
        if call.method not in allowed:
            raise method_not_allowed(call.method, f"/v1{call.path}", ", ".join((*allowed, "OPTIONS")))
        if is_document:
            await call.reply(200, document_bytes(), [JSON])
            return
        principal = self._principal(call)
        if call.path == _MODELS:
            await _reply(call, {"object": "list", "data": _models(self._proxy.directory.table(), principal)})
        else:
            await _reply(call, await self._model(call.path.removeprefix(f"{_MODELS}/"), principal))

    def _principal(self, call: Call) -> Principal:
        key = key_of(call.headers)
        principal = self._authenticate(key)
        if principal is None:
            raise invalid_api_key(given=key is not None)
        return principal

    async def _model(self, name: str, principal: Principal) -> dict[str, Any]:
        if not principal.may_ask(name):
            raise model_not_allowed(name)
        return _model_object(await self._proxy.directory.has(name), name)


def beside(
    openai: Callable[[Scope, Receive, Send], Any], others: Callable[[Scope, Receive, Send], Any]
) -> Callable[[Scope, Receive, Send], Any]:
    """An ASGI app that gives what is under /v1 to `openai` and all else, the lifespan too, to `others`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path.startswith("/v1/") or path == "/v1":
            await openai(scope, receive, send)
        else:
            await others(scope, receive, send)

    return app


def _models(table: RouteTable, principal: Principal) -> list[dict[str, Any]]:
    names = [*table.models, *(name for name in table.routes if name not in table.models)]
    return [_model_object(table, name) for name in names if principal.may_ask(name)]


def _model_object(table: RouteTable, name: str) -> dict[str, Any]:
    model = table.models.get(name)
    created = model.created if model is not None else created_at(table, table.routes[name])
    return {"id": name, "object": "model", "created": created, "owned_by": "stoker"}


async def _reply(call: Call, content: dict[str, Any]) -> None:
    await call.reply(200, json.dumps(content).encode(), [JSON])


def _is_anthropic(call: Call) -> bool:
    endpoint = ENDPOINTS.get(call.path)
    return endpoint is not None and endpoint.anthropic
