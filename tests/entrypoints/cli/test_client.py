"""What happens when the server is another program, goes away in the middle, or is never there."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager

import pytest

from entrypoints.cli import client as client_module
from entrypoints.cli.access import Access
from entrypoints.cli.client import Change, StokerClient, path
from entrypoints.cli.errors import CliError, ExitCode

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: 48\r\n\r\n"
    b'{"code":"database_unavailable","detail":"later"}'
)
NOT_FOUND = b'HTTP/1.1 404 Not Found\r\ncontent-length: 36\r\n\r\n{"code":"not_found","detail":"gone"}'


def chunk(text: str) -> bytes:
    """A chunk of a streamed answer."""
    data = text.encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(kind: str, number: int) -> bytes:
    """A watch's event."""
    return chunk(f'event: {kind}\ndata: {{"n":{number}}}\n\n')


@contextmanager
def server(*answers: Sequence[bytes]) -> Iterator[str]:
    """Gives each connection the next answer, piece by piece, and closes it. The last one is given for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = list(answers)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                for part in left.pop(0) if len(left) > 1 else left[0]:
                    connection.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_RECONNECT_PAUSE_SECONDS", 0.0)


@contextmanager
def refused(match: str, code: ExitCode = ExitCode.FAILED) -> Iterator[None]:
    with pytest.raises(CliError, match=match) as error:
        yield
    assert error.value.code is code


async def watched(url: str, until: int) -> list[Change]:
    """The changes of a watch, until that many were seen."""
    seen: list[Change] = []
    async with StokerClient(Access(url, "", "")) as client, aclosing(client.watch("/x")) as changes:
        async for change in changes:
            seen.append(change)
            if len(seen) == until:
                return seen
    raise AssertionError("a watch does not end")


CONNECTED = Change("connected")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([HEAD, event("added", 1), b"5\r\nda"], id="in the middle of an event"),
        pytest.param([HEAD, event("added", 1)], id="without the last chunk"),
        pytest.param([HEAD, event("added", 1), b"0\r\n\r\n"], id="properly"),
    ],
)
async def test_a_watch_goes_on_after_the_connection_ended(broken: list[bytes]) -> None:
    with server(broken, [UNAVAILABLE], [HEAD, event("added", 2), event("deleted", 2)]) as url:
        assert await watched(url, 5) == [
            CONNECTED,
            Change("added", {"n": 1}),
            CONNECTED,
            Change("added", {"n": 2}),
            Change("deleted", {"n": 2}),
        ]


@pytest.mark.anyio
async def test_a_watch_ends_when_what_it_watches_is_gone() -> None:
    with server([HEAD, event("added", 1)], [NOT_FOUND]) as url, refused("gone", ExitCode.NOT_FOUND):
        await watched(url, 5)


@pytest.mark.anyio
async def test_a_watch_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RECONNECT_WITHIN_SECONDS", 0.2)
    with server([HEAD, event("added", 1)], [UNAVAILABLE]) as url, refused("later"):
        await watched(url, 5)


@pytest.mark.anyio
async def test_a_watch_of_a_server_that_never_answered_is_an_error_at_once() -> None:
    with server([b""]) as url, refused("the connection to .* broke"):
        await watched(url, 1)
    with refused("no Stoker answers at http://127.0.0.1:1"):
        await watched("http://127.0.0.1:1", 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "is no Stoker: it sent no JSON"),
        (b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 5\r\n\r\nshort", "answered 418: short"),
        (b"HTTP/1.1 301 Moved Permanently\r\nlocation: http://x\r\ncontent-length: 0\r\n\r\n", "answered 301: Moved"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "the connection to .* broke"),
        (b"", "the connection to .* broke: Server disconnected without sending a response."),
    ],
)
async def test_a_server_that_is_no_stoker(answer: bytes, message: str) -> None:
    with server([answer]) as url:
        async with StokerClient(Access(url, "", "")) as client:
            with refused(message):
                await client.get("/api/v1/deployments")


@pytest.mark.anyio
async def test_a_local_server_is_never_asked_for_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with server([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]) as url:
        async with StokerClient(Access(url, "", "")) as client:
            assert await client.get("/version") == {}


@pytest.mark.parametrize(
    ("parts", "route"),
    [
        (("deployments", "smol"), "/api/v1/deployments/smol"),
        (("instances", "a b", "logs"), "/api/v1/instances/a%20b/logs"),
        (("keys", "../x?y#z"), "/api/v1/keys/..%2Fx%3Fy%23z"),
    ],
)
def test_path(parts: tuple[str, ...], route: str) -> None:
    assert path(*parts) == route
