"""The gateway: a worker's one door for other hosts. `python -P -m worker_agent.mesh.gateway FOLDER HOST PORT`.

A process of its own, so that an agent's restart cuts nobody off. It knows who it is and who may reach what from the
mesh folder (see `grants`, `stoker.mesh.identity`), at which it looks again and again: a grant that is gone, or a
certificate that was revoked, ends the connections that hang on it at once.

Strangers get nothing but the beginning of a TLS handshake: they have HANDSHAKE_SECONDS for it, and MAX_PENDING at a
time may try.
"""

import asyncio
import contextlib
import socket
import ssl
import sys
from pathlib import Path
from typing import cast

import structlog

from stoker.logging import configure_logging
from stoker.mesh.identity import MeshIdentity, NoIdentityError
from stoker.mesh.sockets import abort, tune
from stoker.mesh.wire import HANDSHAKE_SECONDS, parse_request
from worker_agent.mesh.pending import Pending, Refusals
from worker_agent.mesh.policy import Policy
from worker_agent.mesh.programs import open_file_limit, run_program
from worker_agent.mesh.secure_socket import SecureSocket
from worker_agent.mesh.sessions import Sessions

log = structlog.get_logger()

MAX_PENDING = 64  # of these two fewer where the system gives few open files
MAX_CONNECTIONS = 4096  # of those who are known; each is two files
_SPARE_FILES = 48  # for the folder, the log, the event loop
_LOOK_SECONDS = 0.4
_ORPHAN_SECONDS = 60.0  # without its folder: it belongs to nobody then
_FULL_SECONDS = 0.2  # pause when no more connections can be taken
_BACKLOG = 512


class Gateway:
    """One gateway, on the running event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity = MeshIdentity(folder)
        self._policy = Policy(folder)
        files = open_file_limit()
        strangers = min(MAX_PENDING, max(1, files // 8))
        self._most = min(MAX_CONNECTIONS, max(1, (files - _SPARE_FILES - strangers) // 2))
        self._pending, self._refusals = Pending(strangers), Refusals()
        self._connections: set[asyncio.Task[None]] = set()
        self._sessions = Sessions(self._policy, self._refusals)

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Lets in who may come, until `stop`, or until its folder is gone for good."""
        await self._look()
        parts = [
            asyncio.create_task(self._accept(listener), name="accepting"),
            asyncio.create_task(self._watch(), name="watching the folder"),
            asyncio.create_task(_wait(stop), name="waiting for the signal"),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._sessions.cut_all("the gateway of this host was stopped")
            tasks = (*parts, *self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._sessions.tell()

    # --- what it knows ---

    async def _watch(self) -> None:
        while self._policy.silent_seconds() < _ORPHAN_SECONDS or self._folder.exists():
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()
            self._refusals.tell()
        log.warning("gateway_folder_gone", folder=str(self._folder))

    async def _look(self) -> None:
        await asyncio.to_thread(self._policy.look)
        await asyncio.to_thread(self._identity.refresh)
        self._sessions.revise(self._identity.refuses)
        await self._sessions.tell()

    # --- those who come ---

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (address, *_) = await loop.sock_accept(listener)
            except OSError as error:  # no file descriptors left, or the other side has gone again
                self._refusals.count(f"not accepted: {error.strerror}", "")
                await asyncio.sleep(_FULL_SECONDS)
                continue
            if len(self._connections) - len(self._pending) >= self._most:
                self._refusals.count("too many connections", address)
                abort(connection)
                continue
            task = loop.create_task(self._receive(connection, address), name="a connection")
            self._connections.add(task)
            self._pending.add(task, address)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._pending.remove(task)
        self._connections.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection_failed", error=repr(error))

    async def _receive(self, connection: socket.socket, address: str) -> None:
        """One connection, from its first byte to its last."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            connection.setblocking(False)
            tune(connection)
            secure = SecureSocket(connection, self._identity.for_gateway(), server_side=True)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._handshake(secure)
            self._pending.remove(task)
            if (peer := secure.peer) is None or self._identity.refuses(peer):
                self._refusals.count("revoked" if peer else "names nobody", address, holder=peer.holder if peer else "")
                return
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                request = parse_request(await secure.read_line())
            if request is None:
                self._refusals.count("asks for nothing known", address, holder=peer.holder)
                return
            await self._sessions.serve(secure, peer, request, address)
        except TimeoutError:
            self._refusals.count("too slow", address)
        except NoIdentityError:
            self._refusals.count("this worker has no certificate yet", address)
        except ssl.SSLError as error:
            self._refusals.count((error.reason or "no TLS").lower().replace("_", " "), address)
        except OSError as error:
            self._refusals.count(f"broke off: {error.strerror or error}", address)
        finally:
            abort(connection)  # nothing to one that is closed already

    async def _handshake(self, secure: SecureSocket) -> None:
        try:
            await secure.handshake()
        except ssl.SSLError:  # closed in good order, so that the alert which says why is not lost
            with contextlib.suppress(OSError):
                secure.connection.shutdown(socket.SHUT_WR)
                await asyncio.get_running_loop().sock_recv(secure.connection, 65_536)
            secure.close()
            raise


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


def listen(host: str, port: int) -> socket.socket:
    """A listener at an address. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.setblocking(False)
    return listener


def main(arguments: list[str]) -> int:
    """The program. Exit codes: 0 it was told to end, 1 it cannot listen there, 2 it was called wrongly."""
    configure_logging("gateway", json_lines=True)
    if len(arguments) != 3 or not arguments[2].isdigit():
        log.error("wrong_arguments", wanted="FOLDER HOST PORT")
        return 2
    folder, host, port = Path(arguments[0]), arguments[1], int(arguments[2])
    try:
        (folder / "grants").mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = listen(host, port)
    except OSError as error:
        log.error("gateway_cannot_start", host=host, port=port, error=str(error))
        return 1

    async def run(stop: asyncio.Event) -> int:
        log.info("gateway_listening", host=host, port=listener.getsockname()[1])
        await Gateway(folder).serve(listener, stop)
        log.info("gateway_ended")
        return 0

    with listener:
        return run_program(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
