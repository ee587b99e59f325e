"""From an asyncio program to a service behind a gateway: the API's way to engines and agents."""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar, cast

from stoker.mesh.identity import MeshError, MeshIdentity, peer_of
from stoker.mesh.sockets import NO_ADDRESS, limit_silence, tune, why
from stoker.mesh.ways import GatewayService
from stoker.mesh.wire import HANDSHAKE_SECONDS, MAX_LINE, Verb, refusal_in, request_line, worker_holder

P = TypeVar("P", bound=asyncio.Protocol)

_UNCONFIRMED_SECONDS = 8.0
"""So long a host may confirm nothing of a request that was sent: it has lost its power, say, and sends no reset."""


async def connect_through(identity: MeshIdentity, target: GatewayService, protocol: Callable[[], P]) -> P:
    """Connects `protocol` to a service: it sees a connection like any other.

    Answers within some HANDSHAKE_SECONDS, sooner where the caller's deadline is. Raises MeshError.
    """
    loop = asyncio.get_running_loop()
    where = f"the gateway of {target.worker} ({target.host}:{target.port})"
    greeting, opened = cast("_Greeting | None", None), False
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            _, greeting = await loop.create_connection(
                lambda: _Greeting(identity, target),
                target.host,
                target.port,
                ssl=identity.for_client(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
            await greeting.answered
        opened = True
    except TimeoutError as error:
        raise MeshError(f"{where} did not answer within {HANDSHAKE_SECONDS:g} s") from error
    except ssl.SSLError as error:
        raise MeshError(f"{where} and this host do not know each other: {error.reason or error}") from error
    except NO_ADDRESS as error:
        raise MeshError(f"{where} cannot be reached: {why(error) or repr(error)}") from error
    finally:
        if greeting is not None and not opened:  # also where the caller went away as the answer came
            greeting.transport.abort()
    return greeting.hand_over(protocol())


class _Greeting(asyncio.Protocol):
    """Says what is wanted and hears whether it is had; what comes behind that is for the next protocol."""

    transport: asyncio.Transport

    def __init__(self, identity: MeshIdentity, target: GatewayService) -> None:
        self._identity, self._target = identity, target
        self._line, self._beyond, self._next = b"", b"", cast("asyncio.Protocol | None", None)
        self._lost: list[Exception | None] = []
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hand_over(self, protocol: P) -> P:
        """From now on the connection is `protocol`'s. Raises MeshError when it was lost just now."""
        if self._lost:
            raise MeshError(f"the gateway of {self._target.worker} closed the connection at once")
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self._beyond:
            protocol.data_received(self._beyond)
        self.transport.resume_reading()
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        tune(transport.get_extra_info("socket"))
        limit_silence(transport.get_extra_info("socket"), _UNCONFIRMED_SECONDS)
        peer = peer_of(transport.get_extra_info("ssl_object"))
        where = f"the gateway of {self._target.worker} ({self._target.host}:{self._target.port})"
        if peer is None or peer.holder != worker_holder(self._target.worker):
            shown = "nobody of the mesh" if peer is None else peer.holder
            self._fail(f"{where} is another's: its certificate names {shown}")
        elif self._identity.refuses(peer):
            self._fail(f"{where} shows a certificate that was revoked")
        else:
            self.transport.write(request_line(Verb.OPEN, self._target.service))

    def data_received(self, data: bytes) -> None:
        if self.answered.done():
            self._beyond += data
            return
        line, end, beyond = (self._line + data).partition(b"\n")
        self._line = line
        if not end:
            if len(line) > MAX_LINE:
                self._fail(f"the gateway of {self._target.worker} gave no answer that is known")
        elif (refusal := refusal_in(line + end)) is not None:
            self._fail(f"the gateway of {self._target.worker} refuses {self._target.service}: {refusal}")
        else:
            self._beyond = beyond
            self.transport.pause_reading()
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.append(exc)
        if not self.answered.done():
            reason = f"the gateway of {self._target.worker} closed the connection"
            self.answered.set_exception(MeshError(f"{reason}: {exc}" if exc else reason))

    def _fail(self, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(MeshError(reason))
        self.transport.abort()
