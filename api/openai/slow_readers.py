"""Ends clients that do not take their answers: what waits for them fills memory, and holds up an engine's slot."""

import asyncio
from typing import Protocol

import structlog

from api.openai.client_connection import ClientConnection

_log = structlog.get_logger()

_LOOKS = 4  # in the time that a client may take nothing


class Answer(Protocol):
    """An answer on its way."""

    sent: int  # bytes of its body, handed to the server


class _Reader:
    """A client as it was found at the last look."""

    __slots__ = ("answer", "buffered", "ended", "sent", "stalled")

    def __init__(self, answer: Answer) -> None:
        self.answer, self.sent = answer, answer.sent
        self.buffered = 0  # bytes
        self.stalled = 0  # looks since it last took something
        self.ended = False  # no more is written to it

    def takes(self, buffered: int) -> bool:
        """Whether it has taken something since the last look, or has nothing to take."""
        # The framing is buffered too: as long as nothing is taken, the buffer grows by more than was sent.
        taken = self.buffered + self.answer.sent - self.sent - buffered
        self.buffered, self.sent = buffered, self.answer.sent
        return not buffered or taken > 0


class SlowReaders:
    """Looks at the buffers of clients now and then; nothing is done where data is written. For one event loop."""

    def __init__(self, seconds: float) -> None:
        """A client that has taken nothing of what waits for it for `seconds`, or a quarter more, is cut."""
        self._seconds = seconds
        self._readers: dict[ClientConnection, _Reader] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, client: ClientConnection, answer: Answer) -> None:
        """`answer` may be written to `client` from now on."""
        self._readers[client] = _Reader(answer)
        if self._timer is None:
            self._look_later()

    def answered(self, client: ClientConnection, answer: Answer) -> None:
        """All of it is written. What of it is still buffered goes on to be watched."""
        reader = self._readers.get(client)
        if reader is None or reader.answer is not answer:  # the next one is on its way already
            return
        if client.buffered():
            reader.ended = True
        else:
            del self._readers[client]

    def __len__(self) -> int:
        return len(self._readers)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        for client, reader in tuple(self._readers.items()):
            buffered = client.buffered()
            if not buffered and reader.ended:
                del self._readers[client]
            elif reader.takes(buffered):
                reader.stalled = 0
            else:
                reader.stalled += 1
                if reader.stalled > _LOOKS:
                    del self._readers[client]
                    _log.warning("slow_client_cut", seconds=self._seconds, buffered_bytes=buffered)
                    client.abort()
        if self._readers:
            self._look_later()
