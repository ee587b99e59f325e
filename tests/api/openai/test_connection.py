"""What an engine may send, and what it may not: the connection without a socket."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.connection import (
    MAX_BACKLOG_BYTES,
    MAX_HEADERS,
    MAX_OVERHEAD_BYTES,
    ClosedError,
    Connection,
    MalformedError,
    UpstreamError,
)
from api.openai.errors import Header
from tests.api.openai.recordings import NAMES, recorded, recorded_body

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Where asyncio's transport would be."""

    def __init__(self) -> None:
        self.closed = False
        self.reading = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Answer:
    """A Receiver that keeps everything."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, list[Header](), b""
        self.whole = False
        self.error: UpstreamError | None = None
        self.backlog = 0

    def heard(self) -> None:
        pass

    def head_received(self, status: int, headers: list[Header]) -> None:
        self.status, self.headers = status, headers

    def body_received(self, data: bytes) -> None:
        assert data
        self.body += data
        self.backlog += len(data)

    def completed(self) -> None:
        self.whole = True

    def failed(self, error: UpstreamError) -> None:
        assert self.error is None
        self.error = error

    def writable(self) -> None:
        pass


class Owner:
    """An Owner that keeps what it is told."""

    def __init__(self) -> None:
        self.released_as: list[bool] = []

    def opened(self, connection: Connection) -> None:
        pass

    def released(self, connection: Connection, *, reusable: bool) -> None:
        self.released_as.append(reusable)

    def lost(self, connection: Connection) -> None:
        pass


def received(*pieces: bytes) -> tuple[Answer, Owner, Transport]:
    """What becomes of an answer that comes in these pieces, to a request that was sent."""
    owner, transport, answer = Owner(), Transport(), Answer()
    connection = Connection(owner, ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.begin(answer)
    connection.request_sent = True
    for piece in pieces:
        if not transport.closed:
            connection.data_received(piece)
    return answer, owner, transport


def each_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_engine_really_sends_is_understood_whole_and_byte_by_byte(name: str) -> None:
    whole, *_ = received(recorded(name))
    bytewise, owner, _ = received(*each_byte(recorded(name)))
    assert whole.whole
    assert bytewise.whole
    assert whole.body == bytewise.body == recorded_body(name)
    assert whole.headers == bytewise.headers
    assert (b"server", b"llama.cpp") in whole.headers
    assert owner.released_as == [b"Connection: close" not in recorded(name)]


def test_a_message_split_at_every_place_is_the_same_message() -> None:
    message = CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    for cut in range(1, len(message)):
        answer, owner, _ = received(message[:cut], message[cut:])
        assert (answer.status, answer.body, answer.whole, owner.released_as) == (200, b"hello!", True, [True]), cut


@given(st.data())
def test_random_pieces_of_a_recorded_stream_make_the_same_answer(data: st.DataObject) -> None:
    message = recorded("chat_stream")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=20)))
    pieces = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True) if start < end]
    answer, *_ = received(*pieces)
    assert answer.whole
    assert answer.body == recorded_body("chat_stream")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"hello, I am no HTTP\r\n\r\n", "Expected HTTP/"),
        (b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", "status"),
        (b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n", "status 999"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "status 100"),
        (b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP 2.0"),
        (b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "status 101"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it closes", "neither content-length nor chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "neither content-length nor chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "neither content-length nor chunked"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (b"HTTP/1.1 200 OK\r\nName : value\r\n\r\n", "header"),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "CR"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "whitespace"),
        (CHUNKED + b"zz\r\n", "chunk size"),
        (CHUNKED + b"ffffffffffffffffffff\r\n", "overflow"),
        (CHUNKED + b"2\r\nabc\r\n", "chunk"),
        (CHUNKED + b"0\r\nTrailer: x\r\n\r\n", "a trailer"),
    ],
)
def test_what_is_no_valid_answer_ends_the_connection(message: bytes, reason: str) -> None:
    for pieces in ([message], each_byte(message)):
        answer, owner, transport = received(*pieces)
        assert isinstance(answer.error, MalformedError)
        assert reason.lower() in str(answer.error).lower()
        assert transport.closed
        assert owner.released_as == []
        assert not answer.whole


@pytest.mark.parametrize(
    "piece",
    [
        b"X-More: more\r\n",  # headers without end
        b"X",  # a name without end
        b"X: " + b"y" * 100,  # a value without end
    ],
)
def test_a_head_without_end_is_cut_off(piece: bytes) -> None:
    pieces = [piece] * (2 * MAX_OVERHEAD_BYTES // len(piece))
    answer, _, transport = received(b"HTTP/1.1 200 OK\r\n", *pieces)
    assert isinstance(answer.error, MalformedError)
    assert transport.closed


def test_a_head_that_is_whole_may_still_be_too_large() -> None:
    many = b"".join(b"H%d: x\r\n" % number for number in range(MAX_HEADERS + 1))
    large = b"Large: " + b"x" * (MAX_OVERHEAD_BYTES + 1) + b"\r\n"
    for headers in (many, large):
        answer, _, transport = received(b"HTTP/1.1 200 OK\r\n" + headers + b"Content-Length: 0\r\n\r\n")
        assert "headers" in str(answer.error)
        assert transport.closed


@pytest.mark.parametrize("piece", [b";ext", b"0\r\nTrail", b"000000"])
def test_framing_without_end_is_cut_off(piece: bytes) -> None:
    start = b"1" if piece.startswith(b";") else b""
    answer, _, transport = received(CHUNKED + start, piece, *[b"x" * 1000] * (2 * MAX_OVERHEAD_BYTES // 1000))
    assert isinstance(answer.error, MalformedError)
    assert transport.closed


def test_many_small_chunks_are_no_excess_of_framing() -> None:
    answer, *_ = received(CHUNKED, *[b"1\r\nx\r\n"] * MAX_OVERHEAD_BYTES, b"0\r\n\r\n")
    assert answer.whole
    assert len(answer.body) == MAX_OVERHEAD_BYTES


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", b"\0"])
def test_bytes_after_the_end_close_a_connection_that_was_already_given_back(extra: bytes) -> None:
    for pieces in ([OK + extra], [OK, extra]):
        answer, _, transport = received(*pieces)
        assert answer.whole
        assert answer.body == b"ok"
        assert answer.error is None
        assert transport.closed


def test_a_connection_is_reusable_only_if_the_engine_keeps_it_and_has_the_whole_request() -> None:
    assert received(OK)[1].released_as == [True]
    assert received(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))[1].released_as == [False]
    assert received(OK.replace(b"/1.1", b"/1.0"))[1].released_as == [False]
    owner, transport, answer = Owner(), Transport(), Answer()
    connection = Connection(owner, ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.begin(answer)
    connection.data_received(OK)  # before request_sent
    assert owner.released_as == [False]


def test_a_second_answer_starts_afresh() -> None:
    owner, transport = Owner(), Transport()
    connection = Connection(owner, ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, transport))
    for _ in range(3):
        answer = Answer()
        connection.begin(answer)
        connection.request_sent = True
        connection.data_received(OK)
        assert answer.headers == [(b"content-length", b"2")]
        assert answer.whole
    assert owner.released_as == [True] * 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"Keep-Alive: timeout=5, max=100", 5.0),
        (b"Keep-Alive: max=100, Timeout=7", 7.0),
        (b"Keep-Alive: max=100", None),
        (b"Keep-Alive: timeout=-1", None),
        (b"Keep-Alive: timeout=99999999999999999999", None),
        (b"X: y", None),
    ],
)
def test_how_long_the_engine_keeps_an_idle_connection_is_noted(header: bytes, seconds: float | None) -> None:
    connection = Connection(Owner(), ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, Transport()))
    connection.begin(Answer())
    connection.data_received(b"HTTP/1.1 200 OK\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n")
    assert connection.idle_seconds == seconds


@pytest.mark.parametrize("cut", [0, 10, len(OK) - 1])
def test_a_close_before_the_end_is_an_error(cut: int) -> None:
    owner, transport, answer = Owner(), Transport(), Answer()
    connection = Connection(owner, ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.begin(answer)
    if cut:
        connection.data_received(OK[:cut])
    connection.connection_lost(None)
    assert isinstance(answer.error, ClosedError)


def test_the_engine_waits_while_nobody_reads() -> None:
    owner, transport, answer = Owner(), Transport(), Answer()
    connection = Connection(owner, ("10.0.0.1", 80))
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.begin(answer)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * MAX_BACKLOG_BYTES)
    states = [transport.reading]
    connection.data_received(b"x")
    states.append(transport.reading)
    answer.backlog = 0
    connection.resume_reading()
    states.append(transport.reading)
    assert states == [True, False, True]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20))
def test_no_bytes_whatever_raise_into_the_event_loop(pieces: list[bytes]) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, OK):
        answer, _, transport = received(*([start] if start else []), *pieces)
        assert not (answer.whole and answer.error)
        assert answer.error is None or transport.closed
