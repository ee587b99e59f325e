"""A fake engine: an HTTP server that answers byte for byte what its script says, right or wrong.

In a test: `async with FakeEngine(script, …) as engine`, where the n-th request gets the n-th script and all further
ones the last. As a program, for trying things by hand: `python -m tests.fakes.engine PORT SCENARIO`.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Send:
    """Writes `data`, in pieces of `every` bytes if given, each on its way before the next."""

    data: bytes
    every: int = 0


@dataclass(frozen=True)
class Endless:
    """Writes `data` again and again until the client has gone."""

    data: bytes


@dataclass(frozen=True)
class Gate:
    """Waits until the test opens it; a client that goes meanwhile ends the script."""

    event: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Hang:
    """Says nothing more, until the client has gone."""


@dataclass(frozen=True)
class Close:
    """Closes the connection; `reset`: rudely, so that what is on the way is lost."""

    reset: bool = False


Step = Send | Endless | Gate | Hang | Close
Script = list[Step]


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FakeEngine:
    """Listens on a port of its own on the loopback."""

    def __init__(self, *scripts: Script, before_body: asyncio.Event | None = None) -> None:
        """`before_body`: the bodies of requests are not read until it is set."""
        self.requests: list[Request] = []
        self.connections = 0  # ever made
        self.gone = 0  # clients that closed while their answer was not whole
        self.written = 0  # bytes taken by the sockets, of all answers
        self._scripts = scripts
        self._before_body = before_body
        self._changed = asyncio.Condition()
        self._running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        await self.listen(0)
        return self

    async def listen(self, port: int) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", port, limit=1 << 20)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for _turn in range(3):  # connections that are accepted already become known within these turns of the loop
            await asyncio.sleep(0)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for writer in self._running.values():
            writer.transport.abort()
        for writer in self._running.values():
            with suppress(ConnectionError):
                await writer.wait_closed()
        await self._server.wait_closed()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def until(self, condition: Callable[["FakeEngine"], bool], timeout: float = 10) -> None:
        """Waits until `condition` holds, looked at after every request and every client that goes."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def stop_listening(self) -> None:
        """No new connections from here on; those that are there go on."""
        self._server.close()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._running[asyncio.get_running_loop().create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await self._read_request(reader)) is not None:
                self.requests.append(request)
                await self._notify()
                script = self._scripts[min(len(self.requests), len(self._scripts)) - 1]
                if not await self._play(script, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
            await self._notify()
        finally:
            writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        if self._before_body is not None:
            await self._before_body.wait()
        return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on afterwards."""
        for step in script:
            match step:
                case Send(data, every):
                    size = every or len(data)
                    for start in range(0, len(data), size):
                        await self._write(writer, data[start : start + size])
                        if every:
                            await asyncio.sleep(0)
                case Endless(data):
                    while not reader.at_eof():
                        await self._write(writer, data)
                        await asyncio.sleep(0)
                    raise ConnectionError
                case Gate(event):
                    await self._wait_or_gone(event.wait(), reader)
                case Hang():
                    await self._wait_or_gone(asyncio.Event().wait(), reader)
                case Close(reset):
                    if reset:
                        writer.transport.abort()
                    return False
        return True

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        if writer.is_closing():
            raise ConnectionError
        self.written += len(data)

    async def _wait_or_gone(self, wait: object, reader: asyncio.StreamReader) -> None:
        waiting = asyncio.ensure_future(wait)  # type: ignore[call-overload]
        going = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({waiting, going}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ConnectionError
        finally:
            waiting.cancel()
            going.cancel()
            await asyncio.gather(waiting, going, return_exceptions=True)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


# --- answers ---


def answer(body: bytes, status: str = "200 OK", content_type: str = "application/json", *extra: str) -> bytes:
    """A whole, valid answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *extra]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(text: str) -> bytes:
    """An event of a streamed chat completion, the first of one."""
    content = b'{"role":"assistant","content":"%s"}' % text.encode()
    return b'data: {"choices":[{"index":0,"delta":%s}],"object":"chat.completion.chunk"}\n\n' % content


DONE = b"data: [DONE]\n\n"

SCENARIOS: dict[str, Script] = {
    "ok": [Send(answer(b'{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],"usage":{}}'))],
    "stream": [Send(STREAM_HEAD + chunk(delta("hi")) + chunk(DONE) + STREAM_END)],
    "slow-stream": [Send(STREAM_HEAD + chunk(delta("hi")) + chunk(DONE) + STREAM_END, every=1)],
    "endless-stream": [Send(STREAM_HEAD), Endless(chunk(delta("hi")))],
    "hang": [Hang()],
    "hang-mid-stream": [Send(STREAM_HEAD + chunk(delta("hi"))), Hang()],
    "die-mid-stream": [Send(STREAM_HEAD + chunk(delta("hi"))), Close()],
    "close": [Close()],
    "reset": [Close(reset=True)],
    "endless-headers": [Send(b"HTTP/1.1 200 OK\r\n"), Endless(b"X-More: more\r\n")],
    "garbage": [Send(b"what?\r\n\r\n")],
    "short": [Send(answer(b"{}").replace(b"Length: 2", b"Length: 20")), Close()],
    "loading": [
        Send(
            answer(
                b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
                "503 Service Unavailable",
            )
        )
    ],
    "error": [Send(answer(b'{"error":{"code":500,"message":"boom","type":"server_error"}}', "500 Oops"))],
}


async def _main(port: int, scenario: str) -> None:
    engine = FakeEngine(SCENARIOS[scenario])
    await engine.listen(port)
    print("listening on http://{}:{}".format(*engine.address), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1]), sys.argv[2]))
