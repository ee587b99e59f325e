"""The whole API as `stoker server` runs it: create_app on uvicorn, in this event loop, on a port of its own."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url
from temporalio.client import Client

from api.app import create_app
from api.deps import ApiContext
from api.http_protocol import HttpProtocol
from api.keyring import KeyRing
from api.request_spans import RequestSpans
from api.route_source import DatabaseRoutes
from api.usage.recorder import UsageRecorder
from entrypoints.clock import utc_now
from stoker.domain.keys import Role
from stoker.domain.reports import JoinAnswer, WorkerReport
from stoker.domain.statuses import Progress
from stoker.domain.workers import Worker
from stoker.remote_models import RemoteModels, remote_models
from stoker.secrets import ServerSecret, new_key
from stoker.storage.authority import cluster_authority
from stoker.storage.engine import Database
from stoker.storage.keys import Keys
from stoker.temporal import connect

SECRET = ServerSecret("a secret that only the tests know")
JOIN_TOKEN = "st-join-of-the-tests"
NOBODY = "127.0.0.1:1"  # no Temporal answers there


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are pytest's


@dataclass(frozen=True)
class Event:
    """A server-sent event."""

    kind: str
    data: dict[str, Any]


@dataclass
class Api:
    """The running API, and clients of it by who they are."""

    context: ApiContext
    url: str
    admin: httpx.AsyncClient
    anyone: httpx.AsyncClient
    credentials: dict[str, str] = field(default_factory=dict)

    def key(self, role: Role, name: str = "of a test") -> tuple[str, str]:
        """Adds a key to the database behind the API's back, as another process would; its id and the key."""
        return add_key(self.context.database, role, name)

    async def join(self, worker: Worker, token: str = JOIN_TOKEN) -> httpx.Response:
        """As an agent joins."""
        response = await self._tell(worker, "join", token)
        if response.status_code == 200:
            self.credentials[worker.name] = JoinAnswer.model_validate_json(response.content).credential
        return response

    async def report(self, worker: Worker, *, credential: str = "", **progress: Progress) -> httpx.Response:
        """As an agent reports; by instance id with `_` for `-`, how far its instances have come."""
        by_id = {name.replace("_", "-"): value for name, value in progress.items()}
        return await self._tell(worker, "report", credential or self.credentials.get(worker.name, ""), by_id)

    async def _tell(
        self, worker: Worker, what: str, secret: str, progress: dict[str, Progress] | None = None
    ) -> httpx.Response:
        return await self.anyone.post(
            f"/api/v1/workers/{worker.name}/{what}",
            content=WorkerReport(worker=worker, progress=progress or {}).model_dump_json(),
            headers={"content-type": "application/json"} | ({"authorization": f"Bearer {secret}"} if secret else {}),
        )

    @asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of a watch; leaving the block is the client leaving."""
        async with self.admin.stream("GET", path, params={"watch": "true"}) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _events(response)


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    kind = ""
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield Event(kind, json.loads(value))


@asynccontextmanager
async def serving_api(
    database: Database,
    temporal: Client | None = None,
    *,
    clock: Callable[[], datetime] = utc_now,
    models: RemoteModels | None = None,
    recorder: UsageRecorder | None = None,
    spans: RequestSpans | None = None,
) -> AsyncIterator[Api]:
    """The API on this database, with one admin key. Without `temporal`, Temporal is away; without `models`, the hub."""
    context = ApiContext(
        database=database,
        temporal=temporal or await connect(NOBODY, lazy=True),
        secret=SECRET,
        authority=cluster_authority(database, SECRET, clock),
        join_token_digest=SECRET.digest(JOIN_TOKEN),
        keyring=KeyRing(database, SECRET, clock),
        routes=DatabaseRoutes(database),
        registry=CollectorRegistry(),
        models=models or remote_models(None, endpoint=f"http://{NOBODY}"),
        clock=clock,
        recorder=recorder,
        spans=spans,
    )
    _, key = add_key(database, Role.ADMIN, "of the tests")
    options: dict[str, Any] = {"timeout": 60.0, "trust_env": False}
    async with (
        listening(create_app(context), lifespan="on") as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, **options
        ) as admin,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", **options) as anyone,
    ):
        yield Api(context, f"http://127.0.0.1:{port}", admin, anyone)


@asynccontextmanager
async def listening(app: Any, *, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[int]:
    """An ASGI app on uvicorn, in this event loop; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serving(app, listener, lifespan=lifespan):
            yield listener.getsockname()[1]


@asynccontextmanager
async def serving(app: Any, listener: socket.socket, *, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[None]:
    """The same on a listener that is there already."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        lifespan=lifespan,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started and not task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task


def add_key(database: Database, role: Role, name: str) -> tuple[str, str]:
    """A new key's id, and the key."""
    key_id, key = new_key()
    with database.write() as session:
        Keys(session, utc_now()).add(key_id, name, role, SECRET.digest(key))
    return key_id, key


@contextmanager
def away(database: Database) -> Iterator[None]:
    """A SQLite database that cannot be opened while the block lasts."""
    path = Path(make_url(str(database.engine.url)).database or "")
    aside = path.with_name("aside")
    database.close()
    path.replace(aside)
    path.mkdir()
    try:
        yield
    finally:
        database.close()
        path.rmdir()
        aside.replace(path)
