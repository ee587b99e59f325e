"""The link: the way from a main server to its RPC servers. `python -P -m worker_agent.mesh.link SPEC`.

One process for each group, on the main server's host. It holds a link to the gateway of every peer, and listens on one
loopback port for each: what connects there is carried to that peer's RPC server. It lives and dies with the group: when
one link is lost it ends, and with it all connections; its last line says which, and how.

SPEC is a JSON file: {"folder": the mesh folder, "service": "rpc/<instance>.<n>", "peers": [{"worker", "host", "port"}],
"ready_file": path}. When every link is held, {"ports": [...]} is written there, in the order of the peers.
"""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from typing import NoReturn

import structlog
from pydantic import Field, ValidationError

from stoker.domain.base import Value, WorkerName
from stoker.logging import configure_logging
from stoker.mesh.identity import MeshError, MeshIdentity
from stoker.mesh.sockets import abort, limit_silence
from stoker.mesh.wire import SILENCE_SECONDS, Verb
from stoker.private_files import write_private
from worker_agent.mesh.hold import LinkLostError, hold
from worker_agent.mesh.programs import run_program
from worker_agent.mesh.pump import pump
from worker_agent.mesh.secure_socket import SecureSocket
from worker_agent.mesh.way import open_way

log = structlog.get_logger()

START_SECONDS = 20.0
"""How long a peer may take to let us in: its grant is written at this moment, or its network has a hiccup."""

_RETRY_SECONDS = 0.2
_LOOK_SECONDS = 0.5  # between two looks at who is revoked
_BACKLOG = 64


class LinkPeer(Value):
    """The gateway of one peer."""

    worker: WorkerName
    host: str
    port: int = Field(ge=1, le=65_535)


class LinkTask(Value):
    """What a link is told to do."""

    folder: Path
    service: str
    peers: tuple[LinkPeer, ...] = Field(min_length=1)
    ready_file: Path


class _Ready(Value):
    ports: tuple[int, ...]


class Link:
    """One link, on the running event loop."""

    def __init__(self, task: LinkTask) -> None:
        self._task = task
        self._identity = MeshIdentity(task.folder)
        self._carried: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Holds and carries until cancelled. Raises MeshError when a link cannot be had, or is lost."""
        listeners = [_loopback_listener() for _ in self._task.peers]
        try:
            async with asyncio.TaskGroup() as group:
                held = [asyncio.Event() for _ in self._task.peers]
                for peer, listener, is_held in zip(self._task.peers, listeners, held, strict=True):
                    group.create_task(self._keep(peer, is_held), name=f"the link to {peer.worker}")
                    group.create_task(self._accept(peer, listener), name=f"accepting for {peer.worker}")
                for is_held in held:
                    await is_held.wait()
                _write_ready(self._task.ready_file, tuple(one.getsockname()[1] for one in listeners))
                log.info("link_ready", service=self._task.service, peers=[peer.worker for peer in self._task.peers])
        except* MeshError as problems:
            raise _first(problems) from problems
        finally:
            for carried in self._carried:
                carried.cancel()
            await asyncio.gather(*self._carried, return_exceptions=True)
            for listener in listeners:
                listener.close()

    async def _keep(self, peer: LinkPeer, is_held: asyncio.Event) -> NoReturn:
        secure = await self._held(peer)
        try:
            is_held.set()
            await self._hold(peer, secure)
        finally:
            _goodbye(secure)

    async def _held(self, peer: LinkPeer) -> SecureSocket:
        """A link to a peer that may be held from now on. Raises MeshError when START_SECONDS have passed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while True:
            try:
                secure = await open_way(
                    self._identity, peer.worker, peer.host, peer.port, Verb.HOLD, self._task.service
                )
            except MeshError as error:
                if loop.time() + _RETRY_SECONDS > deadline:
                    raise
                log.info("link_not_yet", peer=peer.worker, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                limit_silence(secure.connection, SILENCE_SECONDS + 1)
                return secure

    async def _hold(self, peer: LinkPeer, secure: SecureSocket) -> NoReturn:
        watching = asyncio.create_task(self._until_revoked(secure), name=f"whether {peer.worker} is revoked")
        holding = asyncio.create_task(hold(secure), name=f"heartbeats of {peer.worker}")
        try:
            done, _ = await asyncio.wait((watching, holding), return_when=asyncio.FIRST_COMPLETED)
            raise done.pop().exception() or LinkLostError("it ended")
        except LinkLostError as error:
            raise LinkLostError(f"the link to {peer.worker} ({peer.host}:{peer.port}) was lost: {error}") from error
        finally:
            watching.cancel()
            holding.cancel()
            await asyncio.gather(watching, holding, return_exceptions=True)

    async def _until_revoked(self, secure: SecureSocket) -> NoReturn:
        peer = secure.peer
        while peer is not None and not self._identity.refuses(peer):  # noqa: ASYNC110 - nobody would set an Event
            await asyncio.sleep(_LOOK_SECONDS)
        raise LinkLostError("its certificate was revoked")

    async def _accept(self, peer: LinkPeer, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                plain, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("not_accepted", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            carried = loop.create_task(self._carry(peer, plain), name=f"a connection to {peer.worker}")
            self._carried.add(carried)
            carried.add_done_callback(self._carried.discard)

    async def _carry(self, peer: LinkPeer, plain: socket.socket) -> None:
        """One connection of the main server's. What goes wrong with it, the main server sees as its reset."""
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = await open_way(self._identity, peer.worker, peer.host, peer.port, Verb.OPEN, self._task.service)
            await pump(plain, secure)
        except (MeshError, OSError) as error:
            log.warning("connection_broke_off", peer=peer.worker, reason=str(error))
        finally:
            abort(plain)


def _first(group: ExceptionGroup[MeshError]) -> MeshError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, MeshError) else MeshError(str(found))


def _goodbye(secure: SecureSocket) -> None:
    """Says that this side ends, if the other can still hear it; waits for nothing."""
    with contextlib.suppress(OSError):
        secure.say_goodbye()
        secure.connection.send(secure.outgoing.read())
    secure.close()


def _loopback_listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def _write_ready(path: Path, ports: tuple[int, ...]) -> None:
    write_private(path, _Ready(ports=ports).model_dump_json())


async def _until_told(link: Link, stop: asyncio.Event) -> int:
    running = asyncio.create_task(link.run(), name="the link")
    stopping = asyncio.create_task(_wait(stop), name="waiting for the signal")
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    told = not running.done()
    for task in (running, stopping):
        task.cancel()
    await asyncio.gather(running, stopping, return_exceptions=True)
    if told:
        log.info("link_ended")
        return 0
    problem = running.exception()
    print(problem if isinstance(problem, MeshError) else repr(problem), file=sys.stderr, flush=True)  # noqa: T201
    return 1


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def main(arguments: list[str]) -> int:
    """The program. Exit codes: 0 it was told to end, 1 a link is lost or cannot be had, 2 it was called wrongly."""
    configure_logging("link", json_lines=True)
    try:
        (path,) = arguments
        task = LinkTask.model_validate_json(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        told = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else error
        print(f"no task for a link: {told}", file=sys.stderr, flush=True)  # noqa: T201
        return 2
    return run_program(lambda stop: _until_told(Link(task), stop))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
