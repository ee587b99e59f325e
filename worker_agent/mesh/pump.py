"""Carries bytes between a plain socket and a TLS one, both ways, until both have ended.

The hot path of a model's load: no task switches and no copies that need not be. Each direction holds at most one
piece that the other side has not taken yet, and reads nothing more until it has: who is slow slows the other down.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import cast

from stoker.mesh.sockets import abort
from worker_agent.mesh.secure_socket import SecureSocket

PIECE = 262_144  # bytes carried at once
_RECORD = 16_384  # bytes in a TLS record at most: OpenSSL gives out one at a time
_scratch = memoryview(bytearray(PIECE))  # of the process: nothing stays in it from one callback to the next


async def pump(plain: socket.socket, secure: SecureSocket) -> None:
    """Carries until both sides have said that nothing more comes, then closes both.

    `plain`: connected, and not blocking. Raises OSError when one of the two broke off: then, and when cancelled, both
    are reset, so that nobody takes what came for the whole.
    """
    try:
        await _Carrier(plain, secure).run()
    except BaseException:
        secure.abort()
        abort(plain)
        raise
    secure.close()
    plain.close()


class _Carrier:
    """The state of one `pump`. Its callbacks never raise: what breaks ends up in `_over`."""

    def __init__(self, plain: socket.socket, secure: SecureSocket) -> None:
        self._plain, self._raw, self._secure = plain, secure.connection, secure
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._to_raw = memoryview(b"")  # records that the other host has not taken yet
        self._to_plain = memoryview(b"")  # bytes that the plain side has not taken yet
        self._drained = False  # all that came through TLS was read
        self._plain_ended = self._goodbye_said = False  # one way
        self._tls_ended = self._plain_told = False  # the other
        # What the event loop watches for us: whether we want it, and the call that says so.
        self._watched = dict.fromkeys((self._on_plain, self._on_plain_ready, self._on_raw, self._on_raw_ready), False)

    async def run(self) -> None:
        try:
            self._guarded(self._deliver)  # what came right behind the first line
            await self._over
        finally:
            for callback in self._watched:
                self._watch(callback, False)

    # --- what the event loop calls ---

    def _on_plain(self) -> None:
        self._guarded(self._take_plain)

    def _on_plain_ready(self) -> None:
        self._guarded(self._deliver)

    def _on_raw(self) -> None:
        self._guarded(self._take_raw)

    def _on_raw_ready(self) -> None:
        self._guarded(self._send)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (BlockingIOError, InterruptedError):  # it was not ready after all
            pass
        except OSError as error:
            if not self._over.done():
                self._over.set_exception(error)
        if self._over.done():
            return
        if self._goodbye_said and not self._to_raw and self._plain_told:
            self._over.set_result(None)
            return
        # TLS answers some records by itself: who sends those, and takes no answers, is not read on either.
        waiting = bool(self._to_raw) or bool(self._secure.outgoing.pending)
        self._watch(self._on_plain, not waiting and not self._plain_ended)
        self._watch(self._on_raw_ready, waiting)
        self._watch(self._on_raw, not self._to_plain and not self._tls_ended and self._secure.outgoing.pending < PIECE)
        self._watch(self._on_plain_ready, bool(self._to_plain))

    def _watch(self, callback: Callable[[], None], wanted: bool) -> None:
        if self._watched[callback] is wanted:
            return
        self._watched[callback] = wanted
        if callback == self._on_plain:
            self._loop.add_reader(self._plain, callback) if wanted else self._loop.remove_reader(self._plain)
        elif callback == self._on_raw:
            self._loop.add_reader(self._raw, callback) if wanted else self._loop.remove_reader(self._raw)
        elif callback == self._on_plain_ready:
            self._loop.add_writer(self._plain, callback) if wanted else self._loop.remove_writer(self._plain)
        else:
            self._loop.add_writer(self._raw, callback) if wanted else self._loop.remove_writer(self._raw)

    # --- from the plain side to the other host ---

    def _take_plain(self) -> None:
        size = self._plain.recv_into(_scratch)
        if size:
            self._secure.tls.write(_scratch[:size])
        else:
            self._plain_ended = True
        self._send()

    def _send(self) -> None:
        """Sends what waits to be sent; when nothing does and nothing more comes, says goodbye."""
        if not self._to_raw:
            # TLS would not read on past a goodbye of ours what lies here unread: so that goes first.
            if self._plain_ended and not self._goodbye_said and (self._drained or self._tls_ended):
                self._goodbye_said = True
                self._secure.say_goodbye()
            if self._secure.outgoing.pending:
                self._to_raw = memoryview(self._secure.outgoing.read())
        if self._to_raw:
            self._to_raw = self._to_raw[self._raw.send(self._to_raw) :]

    # --- from the other host to the plain side ---

    def _take_raw(self) -> None:
        size = self._raw.recv_into(_scratch)
        if not size:
            raise ConnectionResetError("the other host went away without a word")
        self._secure.incoming.write(_scratch[:size])
        self._deliver()

    def _deliver(self) -> None:
        """Gives the plain side what came, as much as it takes."""
        if self._to_plain:
            self._to_plain = self._to_plain[self._plain.send(self._to_plain) :]
        while not self._to_plain and not self._tls_ended:
            size = self._decrypt()
            if size:
                try:
                    sent = self._plain.send(_scratch[:size])
                except BlockingIOError:
                    sent = 0
                self._to_plain = memoryview(bytes(_scratch[sent:size]))
            elif self._drained:
                break
        if self._tls_ended and not self._to_plain and not self._plain_told:
            self._plain_told = True
            self._plain.shutdown(socket.SHUT_WR)
        if self._secure.outgoing.pending or (self._plain_ended and not self._goodbye_said):
            self._send()

    def _decrypt(self) -> int:
        """Bytes that now stand at the beginning of the scratch."""
        size, self._drained = 0, False
        try:
            while PIECE - size >= _RECORD:
                got = cast(int, self._secure.tls.read(_RECORD, _scratch[size:]))  # with a buffer: how many
                if not got:
                    self._tls_ended = True
                    break
                size += got
        except ssl.SSLWantReadError:
            self._drained = True
        except ssl.SSLZeroReturnError:
            self._tls_ended = True
        return size
