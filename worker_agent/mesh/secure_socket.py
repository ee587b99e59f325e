"""TLS on a socket, for an event loop: with half-close, which asyncio's own TLS does not have.

The records go through memory (`ssl.MemoryBIO`), so that many of them travel with one call of the system, and so that
whoever carries much (see `pump`) can work on them without a task.
"""

import asyncio
import contextlib
import socket
import ssl

from stoker.mesh.identity import Peer, peer_of
from stoker.mesh.sockets import abort
from stoker.mesh.wire import MAX_LINE

_PIECE = 65_536  # bytes read from the socket at once


class SecureSocket:
    """One connection. Whoever awaits sets the deadline. Raises OSError, of which ssl.SSLError is one."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        """`connection`: connected, and not blocking. It is closed by `close` or `abort` of this object."""
        self.connection = connection
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()  # records that came, records to be sent
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side)
        self._loop = asyncio.get_running_loop()

    @property
    def peer(self) -> Peer | None:
        """Who the other side is; None: it names nobody of the mesh. After the handshake."""
        return peer_of(self.tls)

    async def handshake(self) -> None:
        """Both sides show who they are. The side that connected hears of a refusal only when it reads then."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert says why
                raise
            else:
                break
        await self._flush()

    async def read(self, limit: int) -> bytes:
        """What is there, up to `limit` bytes; empty when the other side has ended what it sends."""
        while True:
            try:
                return self.tls.read(limit)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()

    async def read_line(self, limit: int = MAX_LINE) -> bytes:
        """Up to and with the next line end, or `limit` bytes, or what there was before the end. Nothing beyond."""
        line = bytearray()
        while len(line) < limit and (byte := await self.read(1)):
            line += byte
            if byte == b"\n":
                break
        return bytes(line)

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes. Raises ConnectionError when it ends before."""
        data = bytearray()
        while len(data) < size:
            piece = await self.read(size - len(data))
            if not piece:
                raise ConnectionError(f"it ended after {len(data)} of {size} bytes")
            data += piece
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """Sends it all. For one writer at a time."""
        self.tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """Says that nothing more will come, when all that came has been read."""
        self.say_goodbye()
        await self._flush()

    def say_goodbye(self) -> None:
        """Puts what tells the other side that nothing more will come into `outgoing`."""
        with contextlib.suppress(ssl.SSLWantReadError):  # it waits for no answer
            self.tls.unwrap()

    def close(self) -> None:
        """Closes the socket. May be repeated."""
        self.connection.close()

    def abort(self) -> None:
        """Closes the socket with a reset. May be repeated."""
        abort(self.connection)

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self.connection, _PIECE)
        if not data:
            raise ConnectionResetError("the other side went away without a word")
        self.incoming.write(data)

    async def _flush(self) -> None:
        if self.outgoing.pending:
            await self._loop.sock_sendall(self.connection, self.outgoing.read())
