"""The load finds every answer that is not as it should be; the engine answers as llama-server does."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.stage.door.asked import BURST_MODEL, CASES, MODEL, PACED_MODEL, Case
from benchmarks.stage.door.programs import CHUNKS, EVENTS, run_load, upstream
from tests.e2e.system import free_ports

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the programs are made by gcc")

SMALL, STREAM = Case("small", 2), Case("stream", 2, stream=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[int]:
    """The engine's port."""
    (port,) = free_ports(1)
    with upstream(port, 0):
        yield port


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_answered_without_an_error(engine: int, tmp_path: Path, case: Case) -> None:
    request = case.write_request(tmp_path, "key")
    events = EVENTS if case.stream else 0
    options = {"connections": case.connections, "events": events, "once": 1, "seconds": 30}
    found = run_load(0, engine, request, **options)
    assert (found.requests, found.errors, found.error) == (case.connections, 0, "")
    assert 0 < found.ttft_p50_ms <= found.p50_ms <= found.max_ms


def test_the_answer_is_one_that_clients_can_read(engine: int) -> None:
    url = f"http://127.0.0.1:{engine}/v1/chat/completions"
    answer = httpx.post(url, json={"model": MODEL}, trust_env=False).json()
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("model", [MODEL, PACED_MODEL, BURST_MODEL])
def test_the_stream_is_one_that_clients_can_read(engine: int, model: str) -> None:
    url = f"http://127.0.0.1:{engine}/v1/chat/completions"
    text = httpx.post(url, json={"model": model, "stream": True}, trust_env=False).text
    events = [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert sum("content" in delta for delta in deltas[1:]) == CHUNKS
    assert (chunks[-1]["choices"][0]["finish_reason"], chunks[-1]["timings"]["predicted_n"]) == ("stop", CHUNKS)


EVENT = b"data: {}\n\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def in_chunks(*parts: bytes) -> bytes:
    """A body as it is on the wire."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("case", "answer", "error"),
    [
        (SMALL, HEAD + b'Content-Length: 13\r\n\r\n{"choices":0}', ""),
        (SMALL, CHUNKED + in_chunks(b'{"choi', b'ces":0}'), ""),
        (SMALL, HEAD + b"Content-Length: 2\r\n\r\n{}", "an answer without choices"),
        (SMALL, HEAD + b'Content-Length: 12\r\n\r\n{"choices":0', "an answer cut short"),
        (SMALL, HEAD + b'Content-Length: 99\r\n\r\n{"choices":0}', "closed before the answer was whole"),
        (SMALL, HEAD + b'Content-Length: 1\r\n\r\n{"choices":0}', "more bytes than it said"),
        (SMALL, CHUNKED + b"x", "a chunk whose size is no number"),
        (SMALL, CHUNKED + in_chunks(b'{"choices":0}') + b"x", "bytes after its end"),
        (SMALL, b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy", "status 503: busy"),
        (SMALL, b"nonsense nonsense\r\n\r\n", "no HTTP/1.1 answer"),
        (SMALL, b"", "closed before the answer was whole"),
        (STREAM, CHUNKED + in_chunks(*[EVENT] * EVENTS, b"data: [DO", b"NE]\n", b"\n"), ""),
        (STREAM, CHUNKED + in_chunks(EVENT * EVENTS + b"data: [DONE]\n\n"), ""),
        (STREAM, CHUNKED + in_chunks(EVENT * EVENTS), "a stream without [DONE]"),
        (STREAM, CHUNKED + in_chunks(EVENT, b"data: [DONE]\n\n"), "a stream of 2 events"),
        (STREAM, CHUNKED + in_chunks(EVENT * EVENTS)[:-5], "closed before the answer was whole"),
    ],
)
def test_the_load_finds_what_is_wrong(tmp_path: Path, case: Case, answer: bytes, error: str) -> None:
    request = case.write_request(tmp_path, "key")
    with saying(answer) as port:
        found = run_load(0, port, request, once=1, seconds=20, events=EVENTS if case.stream else 0)
    assert error in found.error
    assert (found.requests, found.errors) == ((0, 1) if error else (1, 0))


class saying:  # noqa: N801 - it is used as a function
    """A server that says the same to everybody, and hangs up; yields its port."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                if client.recv(65_536):
                    client.sendall(self._answer)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65_536):
                        pass
