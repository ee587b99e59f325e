"""Small writes of an event loop, held back until it has done what it had to do just now.

A write to a socket wakes whoever reads at its other end. Where that one sleeps on a core of a virtual machine, waking
it costs some 20 microseconds, and the write itself 3 (measured; ADR 27). Written one behind the other the first one
pays that and the rest find it awake: of a small request it was a quarter of all the work.
"""

import asyncio
from weakref import WeakKeyDictionary

MAX_PIECE_BYTES = 16_384
"""Larger ones are written at once: whether somebody takes them must be seen before more is made."""

MAX_WAITING_BYTES = 65_536
"""Of all connections together; more is not held back."""

FEW = 2
"""Requests in work, up to which nothing is held back: there is nobody to share the waking with."""


class Outbox:
    """What is still to be written. Every write to a transport must go through here, or after `flush`."""

    __slots__ = ("__weakref__", "_bytes", "_waiting", "requests")

    def __init__(self) -> None:
        self.requests = 0  # in work: told by those who begin and end them
        self._waiting: dict[asyncio.Transport, bytes] = {}
        self._bytes = 0

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Writes it behind what was written before: in this turn of the running loop, or at the next one's beginning.

        Until then `get_write_buffer_size` does not know of it, nor can it pause the protocol.
        """
        waiting = self._waiting
        size = len(data)
        if size > MAX_PIECE_BYTES or self.requests <= FEW:
            if before := waiting.pop(transport, None):
                self._bytes -= len(before)
                data = before + data
            if not transport.is_closing():
                transport.write(data)
            return
        if not waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        before = waiting.get(transport)
        waiting[transport] = data if before is None else before + data
        self._bytes += size
        if self._bytes > MAX_WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes all that waits. What was for connections that are closed meanwhile is dropped."""
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for transport, data in waiting.items():
            if not transport.is_closing():
                transport.write(data)


_OF_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def outbox() -> Outbox:
    """The running loop's. Raises RuntimeError where none runs."""
    loop = asyncio.get_running_loop()
    found = _OF_LOOPS.get(loop)
    if found is None:
        found = _OF_LOOPS[loop] = Outbox()
    return found
