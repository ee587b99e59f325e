"""The stand-in itself: its routes on a port of the loopback."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Self

import uvicorn
from fastapi import Depends, FastAPI, Request

from api import errors
from api.errors import ProblemError
from tests.fakes.api import (
    audit,
    deployments,
    estimates,
    files,
    health,
    instances,
    join_tokens,
    keys,
    openai,
    routes,
    usage,
    workers,
)
from tests.fakes.api.state import ApiState, Asked


@dataclass
class FakeApi(ApiState):
    """The state, served."""

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serves on a free port of the loopback while the block lasts."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            config = uvicorn.Config(
                _app(self), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join()

    def reset(self) -> None:
        """Forgets everything but where it listens. Watches that are still open go on seeing what they saw."""
        fresh = FakeApi(url=self.url)
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))


def _app(fake: ApiState) -> FastAPI:
    async def note(request: Request) -> None:
        text = await request.body()
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = json.loads(text) if text else None
        fake.requests.append(Asked(request.method, request.url.path, dict(request.query_params), body, key))
        if request.url.path in fake.unanswered:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        if request.url.path.startswith("/api/") and not request.url.path.endswith("/join"):
            _check_admin(fake, key)

    app = FastAPI(dependencies=[Depends(note)])
    errors.install(app)
    for resource in (
        deployments,
        estimates,
        instances,
        workers,
        join_tokens,
        files,
        routes,
        keys,
        usage,
        audit,
        openai,
        health,
    ):
        resource.add_routes(app, fake)
    return app


def _check_admin(fake: ApiState, key: str) -> None:
    if not key:
        raise ProblemError("unauthorized", "no API key: send `Authorization: Bearer sk-stoker-…`")
    if key == fake.user_key:
        raise ProblemError("forbidden", "the key 'app' has the role user; this needs admin")
    if key != fake.admin_key:
        raise ProblemError("unauthorized", "this API key is not known, has expired, or was revoked")
