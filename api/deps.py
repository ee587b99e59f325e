"""What routes depend on, by name: `XxxDep`. Everything hangs on one context that `entrypoints` made."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar

import httpx
from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry
from sqlmodel import Session
from temporalio.client import Client

from api.errors import ProblemError
from api.keyring import KeyRing
from api.route_source import DatabaseRoutes
from stoker.domain.base import DNS_LABEL_PATTERN
from stoker.domain.keys import KeyStatus, Role
from stoker.remote_models import RemoteModels
from stoker.secrets import ServerSecret
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.workers import Workers
from stoker.temporal import TemporalInstanceCalls

T = TypeVar("T")

_ETAG = re.compile(r'(W/)?("?)([0-9]{1,18})\2')


def _agents_client() -> httpx.AsyncClient:
    """For the agents' logs. They are in our own network: the environment's proxies are not for them."""
    return httpx.AsyncClient(timeout=10.0, trust_env=False)


@dataclass(frozen=True)
class ApiContext:
    """Everything that the API works with, made once by `entrypoints.server`."""

    database: Database
    temporal: Client
    secret: ServerSecret
    join_token_digest: str
    keyring: KeyRing
    routes: DatabaseRoutes
    registry: CollectorRegistry
    models: RemoteModels
    clock: Callable[[], datetime]
    agents: httpx.AsyncClient = field(default_factory=_agents_client)

    @property
    def ledger(self) -> ClaimLedger:
        """Claims."""
        return ClaimLedger(self.database, self.clock)

    @property
    def instances(self) -> TemporalInstanceCalls:
        """Instances' workflows."""
        return TemporalInstanceCalls(self.temporal)

    async def read(self, query: Callable[[Session, datetime], T]) -> T:
        """Runs `query` in a read transaction, in a thread."""
        return await asyncio.to_thread(self._in_transaction, query, False)

    async def write(self, change: Callable[[Session, datetime], T]) -> T:
        """Runs `change` in a write transaction, in a thread."""
        return await asyncio.to_thread(self._in_transaction, change, True)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs what blocks in a thread."""
        return await asyncio.to_thread(work)

    def _in_transaction(self, work: Callable[[Session, datetime], T], writes: bool) -> T:
        with self.database.write() if writes else self.database.read() as session:
            return work(session, self.clock())


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


ContextDep = Annotated[ApiContext, Depends(_context)]


def bearer_of(request: Request) -> str | None:
    """The key in `Authorization: Bearer` or `x-api-key`, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("x-api-key")


def _shown_as(name: str, description: str) -> Any:
    """For the OpenAPI description, and the button of its page: what kind of bearer opens a route."""
    return Security(HTTPBearer(scheme_name=name, description=description, auto_error=False))


_BY_ADMIN_KEY = _shown_as("adminKey", "An API key of the role admin. `x-api-key: KEY` is taken too.")
_BY_JOIN_TOKEN = _shown_as("joinToken", "The cluster's join token.")
_BY_CREDENTIAL = _shown_as("workerCredential", "What the worker got when it joined.")


def _admin(request: Request, context: ContextDep, _: Annotated[object, _BY_ADMIN_KEY]) -> KeyStatus:
    key = bearer_of(request)
    if key is None:
        raise ProblemError("unauthorized", "no API key: send `Authorization: Bearer sk-stoker-…`")
    status = context.keyring.authenticate(key)
    if status is None:
        raise ProblemError("unauthorized", "this API key is not known, or was revoked")
    if status.role is not Role.ADMIN:
        raise ProblemError("forbidden", f"the key {status.name!r} has the role {status.role}; this needs admin")
    return status


AdminDep = Annotated[KeyStatus, Depends(_admin)]


async def _joining(request: Request, context: ContextDep, _: Annotated[object, _BY_JOIN_TOKEN]) -> None:
    token = bearer_of(request)
    if token is None or not context.secret.matches(token, context.join_token_digest):
        raise ProblemError(
            "unauthorized", "wrong join token: it is in the file `join-token` of the server's data folder"
        )


WorkerNamePath = Annotated[str, Path(pattern=DNS_LABEL_PATTERN)]
InstancePath = Annotated[str, Path(pattern=DNS_LABEL_PATTERN)]
KeyPath = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]


async def _worker(
    name: WorkerNamePath, request: Request, context: ContextDep, _: Annotated[object, _BY_CREDENTIAL]
) -> str:
    credential = bearer_of(request) or ""
    digest = await context.read(lambda session, now: Workers(session, now).credential_hash(name))
    if digest is None:
        raise ProblemError("unauthorized", f"worker {name!r} has not joined this cluster: join again")
    if not context.secret.matches(credential, digest):
        raise ProblemError("worker_replaced", f"another agent has joined as worker {name!r}")
    return name


JoiningDep = Depends(_joining)
ReportingWorkerDep = Annotated[str, Depends(_worker)]

LimitDep = Annotated[int, Query(ge=1, le=1000, description="How many items at most.")]
AfterDep = Annotated[
    str,
    Query(max_length=63, pattern="^[a-z0-9-]*$", description="Only items behind this id: `last` of the page before."),
]
WatchDep = Annotated[bool, Query(description="Stream changes as server-sent events: added, modified, deleted.")]
IdempotencyKeyDep = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


def _expected_generation(if_match: Annotated[str | None, Header(alias="If-Match")] = None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    etag = _ETAG.fullmatch(if_match.strip())
    if etag is None:
        raise ProblemError("invalid_request", f'If-Match: {if_match!r} is no ETag of a deployment: write it like "3"')
    return int(etag[3])


ExpectedGenerationDep = Annotated[int | None, Depends(_expected_generation)]
