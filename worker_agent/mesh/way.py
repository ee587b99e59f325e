"""The way from this host to a service behind another worker's gateway, on plain sockets: for the link and the probe."""

import asyncio
import socket
import ssl
from contextlib import ExitStack

from stoker.domain.base import WorkerName
from stoker.mesh.identity import MeshError, MeshIdentity
from stoker.mesh.sockets import NO_ADDRESS, tune, why
from stoker.mesh.wire import HANDSHAKE_SECONDS, Verb, refusal_in, request_line, worker_holder
from worker_agent.mesh.secure_socket import SecureSocket


class RefusedError(MeshError):
    """The gateway is there and knows us, and does not do what was asked."""


async def open_way(
    identity: MeshIdentity, worker: WorkerName, host: str, port: int, verb: Verb, service: str = "-"
) -> SecureSocket:
    """A connection to the gateway of `worker`, which has agreed to do what was asked.

    Answers within 3 * HANDSHAKE_SECONDS. Raises MeshError, RefusedError; then nothing is left open.
    """
    where = f"the gateway of {worker} ({host}:{port})"
    context = identity.for_client()
    connection = await _connected(where, host, port)
    secure = SecureSocket(connection, context, server_side=False)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await secure.handshake()
        peer = secure.peer
        if peer is None or peer.holder != worker_holder(worker):
            shown = "nobody of the mesh" if peer is None else peer.holder
            raise MeshError(f"{where} is another's: its certificate names {shown}")
        if identity.refuses(peer):
            raise MeshError(f"{where} shows a certificate that was revoked")
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await secure.write(request_line(verb, service))
            refusal = refusal_in(await secure.read_line())
        if refusal is not None:
            raise RefusedError(f"{where} refuses {verb} {service}: {refusal}")
    except BaseException as error:
        secure.abort()
        if isinstance(error, TimeoutError):
            raise MeshError(f"{where} did not answer within {HANDSHAKE_SECONDS:g} s") from error
        if isinstance(error, ssl.SSLError):
            raise MeshError(f"{where} and this host do not know each other: {_told(error)}") from error
        if isinstance(error, OSError):
            raise MeshError(f"{where} broke off: {error}") from error
        raise
    return secure


async def _connected(where: str, host: str, port: int) -> socket.socket:
    """To the first of the host's addresses that answers: a name may have some that lead nowhere from here."""
    loop = asyncio.get_running_loop()
    deadline, problem = loop.time() + HANDSHAKE_SECONDS, f"no answer within {HANDSHAKE_SECONDS:g} s"
    try:
        async with asyncio.timeout_at(deadline):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except NO_ADDRESS as error:  # of which TimeoutError is one
        raise MeshError(f"{where} cannot be reached: {why(error) or problem}") from error
    for number, (family, kind, protocol, _, address) in enumerate(found):
        with ExitStack() as on_failure:
            try:
                connection = on_failure.enter_context(socket.socket(family, kind, protocol))
                connection.setblocking(False)
                async with asyncio.timeout((deadline - loop.time()) / (len(found) - number)):
                    await loop.sock_connect(connection, address)
                tune(connection)
            except NO_ADDRESS as error:  # of which TimeoutError is one
                problem = why(error) or problem
            else:
                on_failure.pop_all()
                return connection
    raise MeshError(f"{where} cannot be reached: {problem}")


def _told(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
