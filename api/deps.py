"""What routes depend on, by name: `XxxDep`. Everything hangs on one context that `entrypoints` made."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path as FilePath
from threading import Event
from typing import Annotated, Any, TypeVar

import httpx
from fastapi import Depends, Header, Path, Query, Request, Security
from fastapi.security import HTTPBearer
from prometheus_client import CollectorRegistry
from sqlmodel import Session
from temporalio.client import Client

from api.absence_view import AbsenceView
from api.agents import agents_client
from api.errors import ProblemError
from api.keyring import KeyRing
from api.limits.gate import LimitGate
from api.openai.upstream import Pool
from api.process_metrics import ProcessMetrics
from api.route_source import DatabaseRoutes
from api.usage.recorder import UsageRecorder
from stoker.certificates import Authority
from stoker.domain.base import DNS_LABEL_PATTERN, WorkerName
from stoker.domain.keys import KeyStatus, Role
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS
from stoker.mesh.identity import MeshIdentity
from stoker.remote_models import RemoteModels
from stoker.secrets import ServerSecret
from stoker.storage.absence import AbsenceWatch
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.removal import was_removed
from stoker.storage.workers import Workers
from stoker.temporal import TemporalInstanceCalls

T = TypeVar("T")

_ETAG = re.compile(r'(W/)?("?)([0-9]{1,18})\2')


@dataclass(frozen=True)
class ApiContext:
    """Everything that the API works with, made once by `entrypoints.server_process`.

    `registry` has what this process counts: `/metrics` shows the sum over all processes of this server.
    """

    database: Database
    temporal: Client
    secret: ServerSecret
    authority: Authority
    join_token_digest: str
    keyring: KeyRing
    routes: DatabaseRoutes
    registry: CollectorRegistry
    models: RemoteModels
    clock: Callable[[], datetime]
    pending_hold: float = PENDING_HOLD_SECONDS
    worker_grace: float = 30.0  # seconds
    mesh: MeshIdentity | None = None  # who the API is to the gateways of other hosts
    gate: LimitGate | None = None  # counts what keys use; None: no key has limits
    recorder: UsageRecorder | None = None  # keeps records of requests; the application starts and closes it
    usage_days: int = 30  # single requests are kept so long
    metrics_folder: FilePath | None = None  # which all processes of this server share; None: there is no other
    view_registry: CollectorRegistry = field(default_factory=CollectorRegistry)  # what all processes see alike
    wake_timeout: float = 120.0  # seconds; so long a request waits for the first replica of a model that sleeps
    processes: int = 1  # that answer /v1, this one counted: each has its share of what is bounded
    temporal_ui: str = ""  # where browsers find Temporal's UI; empty: no page links to it
    stopping: Event = field(default_factory=Event)  # set when answers that would go on for ever are to end

    @cached_property
    def agents(self) -> httpx.AsyncClient:
        """For what agents are asked. They are in our own network: the environment's proxies are not for them."""
        return agents_client(self.agent_connections)

    @cached_property
    def agent_connections(self) -> Pool:
        """Theirs."""
        return Pool(self.mesh, max_idle=4)

    @cached_property
    def ledger(self) -> ClaimLedger:
        """Claims. One for all: it keeps the fleet in memory."""
        return ClaimLedger(self.database, self.clock, pending_hold=self.pending_hold)

    @cached_property
    def absence(self) -> AbsenceView:
        """Workers that are silent."""
        return AbsenceView(AbsenceWatch(self.database, self.worker_grace), self.view_registry)

    @cached_property
    def metrics(self) -> ProcessMetrics:
        """What this process and its siblings counted."""
        return ProcessMetrics(self.registry, self.metrics_folder)

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


async def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


ContextDep = Annotated[ApiContext, Depends(_context)]


def bearer_of(request: Request) -> str | None:
    """The key in `Authorization: Bearer` or `x-api-key`, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("x-api-key")


def shown_as(name: str, description: str) -> Any:
    """For the OpenAPI description, and the button of its page: what kind of bearer opens a route."""
    return Security(HTTPBearer(scheme_name=name, description=description, auto_error=False))


_BY_ADMIN_KEY = shown_as("adminKey", "An API key of the role admin. `x-api-key: KEY` is taken too.")
_BY_ANY_KEY = shown_as("anyKey", "An API key of any role. `x-api-key: KEY` is taken too.")
_BY_CREDENTIAL = shown_as("workerCredential", "What the worker got when it joined.")


def _caller(request: Request, context: ContextDep, _: Annotated[object, _BY_ANY_KEY]) -> KeyStatus:
    return _owner(request, context)


def _admin(request: Request, context: ContextDep, _: Annotated[object, _BY_ADMIN_KEY]) -> KeyStatus:
    status = _owner(request, context)
    if status.role is not Role.ADMIN:
        raise ProblemError("forbidden", f"the key {status.name!r} has the role {status.role}; this needs admin")
    return status


def _owner(request: Request, context: ApiContext) -> KeyStatus:
    key = bearer_of(request)
    if key is None:
        raise ProblemError("unauthorized", "no API key: send `Authorization: Bearer sk-stoker-…`")
    status = context.keyring.authenticate(key)
    if status is None:
        raise ProblemError("unauthorized", "this API key is not known, has expired, or was revoked")
    return status


AdminDep = Annotated[KeyStatus, Depends(_admin)]
CallerDep = Annotated[KeyStatus, Depends(_caller)]  # any key


WorkerNamePath = Annotated[str, Path(pattern=DNS_LABEL_PATTERN)]
InstancePath = Annotated[str, Path(pattern=DNS_LABEL_PATTERN)]
KeyPath = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]
JoinTokenPath = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]


async def _worker_credential(request: Request, _: Annotated[object, _BY_CREDENTIAL]) -> str:
    return bearer_of(request) or ""


WorkerCredentialDep = Annotated[str, Depends(_worker_credential)]
"""Unchecked: what a worker's agent shows for itself. See `check_credential`."""


def check_credential(
    session: Session, secret: ServerSecret, name: WorkerName, credential: str, digest: str | None
) -> None:
    """Refuses whoever is not worker `name`'s agent. `digest`: of the right one; None: the worker has no row."""
    if digest is None and was_removed(session, name):
        raise worker_removed(name)
    if digest is None:
        raise ProblemError("unauthorized", f"worker {name!r} has not joined this cluster: join again")
    if not secret.matches(credential, digest):
        raise ProblemError("worker_replaced", f"another agent has joined as worker {name!r}")


def worker_removed(name: WorkerName) -> ProblemError:
    """The worker is no longer of this cluster."""
    return ProblemError("worker_removed", f"worker {name!r} was removed from this cluster")


async def _worker(name: WorkerNamePath, credential: WorkerCredentialDep, context: ContextDep) -> str:
    def check(session: Session, now: datetime) -> None:
        check_credential(session, context.secret, name, credential, Workers(session, now).credential_hash(name))

    await context.read(check)
    return name


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
