"""What known peers have of this host through its gateway: opened ways, held links, probes; and until when."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import structlog

from stoker.mesh.identity import Peer
from stoker.mesh.sockets import abort, limit_silence
from stoker.mesh.wire import (
    HANDSHAKE_SECONDS,
    NOT_GRANTED,
    OPENED,
    SERVER,
    SILENCE_SECONDS,
    Request,
    Verb,
    refusal_line,
)
from worker_agent.mesh.grants import Grant, Held
from worker_agent.mesh.hold import LinkLostError, hold
from worker_agent.mesh.pending import Refusals
from worker_agent.mesh.policy import Policy
from worker_agent.mesh.probe import answer_probe
from worker_agent.mesh.pump import pump
from worker_agent.mesh.secure_socket import SecureSocket

log = structlog.get_logger()

MAX_PROBES = 4
MAX_OF_WORKER = 128
"""Connections that one worker may have: one gone wild shall not shut out the others. The server may have any number."""

_CONNECT_SECONDS = 5.0  # to a service on this host's loopback


@dataclass(slots=True)
class _Session:
    peer: Peer
    request: Request
    cut_reason: str = ""  # why this side ended it


class Sessions:
    """All of one gateway, on the running event loop."""

    def __init__(self, policy: Policy, refusals: Refusals) -> None:
        self._policy, self._refusals = policy, refusals
        self._sessions: dict[asyncio.Task[None], _Session] = {}
        self._holders: dict[str, asyncio.Task[None]] = {}  # by service: who holds its link now
        self._news: dict[str, Held | None] = {}  # of links, not written yet
        for service, held in policy.grants.told_held().items():
            self._news[service] = _lost("the gateway of this host has ended") if held.held else held

    async def serve(self, secure: SecureSocket, peer: Peer, request: Request, address: str) -> None:
        """Does what a peer asks for, if it may; returns at its end. Its task is cancelled to end it. Raises OSError."""
        grant = self._policy.granted(request.service, peer.holder)
        if refusal := self._refusal(peer, request, grant):
            self._refusals.count(refusal, address, holder=peer.holder, service=request.service)
            await _refuse(secure, refusal)
            return
        task, session = _this_task(), _Session(peer, request)
        self._sessions[task] = session
        try:
            if request.verb is Verb.OPEN and grant is not None:
                await self._open(secure, request.service, grant.port, address)
            elif request.verb is Verb.HOLD:
                await self._hold(secure, session)
            else:
                with contextlib.suppress(OSError):  # the client has gone, or takes too long
                    await secure.write(OPENED)
                    await answer_probe(secure)
        finally:
            del self._sessions[task]

    def revise(self, refuses: Callable[[Peer], bool]) -> None:
        """Cuts those who may not have any more what they have; `refuses`: whether a peer was revoked."""
        for task, session in self._sessions.items():
            if refuses(session.peer):
                self._cut(task, f"the certificate of {session.peer.holder} was revoked")
            elif session.request.service and not self._policy.granted(session.request.service, session.peer.holder):
                self._cut(task, "it was withdrawn")

    def cut_all(self, reason: str) -> None:
        """Ends all of them."""
        for task in self._sessions:
            self._cut(task, reason)

    async def tell(self) -> None:
        """Writes what became of links; what the disk does not take is kept for the next time."""
        news, self._news = self._news, {}
        left = news  # also when cancelled
        try:
            left = await asyncio.to_thread(self._policy.tell, news)
        finally:
            self._news = left | self._news

    def _cut(self, task: asyncio.Task[None], reason: str) -> None:
        session = self._sessions[task]
        if not session.cut_reason:
            session.cut_reason = reason
            task.cancel()

    def _refusal(self, peer: Peer, request: Request, grant: Grant | None) -> str:
        """Why a peer does not get what it asks for; empty: it does."""
        service = request.service
        if request.verb is Verb.PROBE:
            probes = sum(other.request.verb is Verb.PROBE for other in self._sessions.values())
            return "busy with other probes" if probes >= MAX_PROBES else ""
        if grant is None:
            return NOT_GRANTED
        if request.verb is Verb.OPEN and service.startswith("rpc/") and service not in self._holders:
            return "its link is not held"
        if request.verb is Verb.OPEN and peer.holder != SERVER:
            own = sum(other.peer.holder == peer.holder for other in self._sessions.values())
            return f"no more than {MAX_OF_WORKER} connections for a worker" if own >= MAX_OF_WORKER else ""
        return ""

    # --- what they ask for ---

    async def _open(self, secure: SecureSocket, service: str, port: int | str, address: str) -> None:
        loop = asyncio.get_running_loop()
        target = ("127.0.0.1", port) if isinstance(port, int) else port
        plain = socket.socket(socket.AF_INET if isinstance(port, int) else socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await loop.sock_connect(plain, target)
            except OSError as error:  # of which TimeoutError is one
                reason = f"nothing answers there: {error.strerror or 'it takes too long'}"
                self._refusals.count(reason, address, service=service)
                await _refuse(secure, reason)
                return
            if plain.family == socket.AF_INET:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await secure.write(OPENED)
            with contextlib.suppress(OSError):  # one of the two broke off: the other has been told
                await pump(plain, secure)
        finally:
            abort(plain)

    async def _hold(self, secure: SecureSocket, session: _Session) -> None:
        service, holder, task = session.request.service, session.peer.holder, _this_task()
        if (earlier := self._holders.get(service)) is not None:
            self._cut(earlier, "it is held anew")
        limit_silence(secure.connection, SILENCE_SECONDS + 1)
        self._holders[service] = task
        self._news[service] = Held(held=True, since=time.time())
        log.info("link_held", service=service, peer=holder)
        reason = "its end was not seen"
        try:
            await secure.write(OPENED)
            await hold(secure)
        except (LinkLostError, OSError) as error:
            reason = str(error)
        except asyncio.CancelledError:
            reason = session.cut_reason
            raise
        finally:
            if self._holders.get(service) is task:
                self._end_hold(service, holder, reason)

    def _end_hold(self, service: str, holder: str, reason: str) -> None:
        """The link is no more, and so what went through it ends: whoever used it is gone."""
        del self._holders[service]
        withdrawn = service not in self._policy.services()
        self._news[service] = None if withdrawn else _lost(reason)
        log.log(20 if withdrawn else 30, "link_ended" if withdrawn else "link_lost", service=service, reason=reason)
        for task, session in self._sessions.items():
            if session.request.service == service and session.request.verb is Verb.OPEN:
                self._cut(task, f"the link from {holder} was lost")


async def _refuse(secure: SecureSocket, reason: str) -> None:
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        await secure.write(refusal_line(reason))
        await secure.end()
    secure.close()


def _lost(reason: str) -> Held:
    return Held(held=False, since=time.time(), reason=reason)


def _this_task() -> asyncio.Task[None]:
    return cast("asyncio.Task[None]", asyncio.current_task())
