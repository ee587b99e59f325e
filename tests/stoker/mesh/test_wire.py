"""The lines between a client and a gateway."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.mesh.wire import (
    MAX_LINE,
    Request,
    Verb,
    is_peer,
    is_service,
    main_service,
    parse_request,
    refusal_in,
    refusal_line,
    request_line,
    rpc_service,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"open agent\n", Request(verb=Verb.OPEN, service="agent")),
        (b"open files\n", Request(verb=Verb.OPEN, service="files")),
        (b"open main/chat-x1.12\n", Request(verb=Verb.OPEN, service="main/chat-x1.12")),
        (b"hold rpc/chat-x1.0\n", Request(verb=Verb.HOLD, service="rpc/chat-x1.0")),
        (b"probe -\n", Request(verb=Verb.PROBE, service="")),
        (b"hold main/chat-x1.0\n", None),
        (b"hold agent\n", None),
        (b"probe agent\n", None),
        (b"open -\n", None),
        (b"open \n", None),
        (b"open\n", None),
        (b"OPEN agent\n", None),
        (b"open agent", None),
        (b"open agent\r\n", None),
        (b"open  agent\n", None),
        (b"open agent \n", None),
        (b"open rpc/../x.1\n", None),
        (b"open rpc/chat-x1.1/2\n", None),
        (b"open rpc/chat-x1\n", None),
        (b"open rpc/Chat.1\n", None),
        (b"open rpc/chat.1234567890\n", None),
        ("open rpc/chat.\u0661\n".encode(), None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"\n", None),
        (b"", None),
        (b"open agent\n" + b" " * MAX_LINE, None),
    ],
)
def test_what_a_line_asks_for(line: bytes, expected: Request | None) -> None:
    assert parse_request(line) == expected


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABELS, st.integers(0, 999_999_999), st.sampled_from([rpc_service, main_service]))
def test_what_is_asked_for_is_understood(instance_id: str, incarnation: int, name: object) -> None:
    service = (rpc_service if name is rpc_service else main_service)(instance_id, incarnation)
    line = request_line(Verb.OPEN, service)
    assert len(line) <= MAX_LINE
    assert parse_request(line) == Request(verb=Verb.OPEN, service=service)


@given(st.binary(max_size=400))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    asked = parse_request(line)
    assert asked is None or request_line(asked.verb, asked.service or "-") == line


def test_a_name_that_is_none_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="'rpc/x' is no service"):
        request_line(Verb.OPEN, "rpc/x")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"+\n", None),
        (b"-no such service for you\n", "no such service for you"),
        (b"-\n", "it did not say why"),
        (b"", "it gave no answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "its answer is none that is known"),
        (b"+", "its answer is none that is known"),
        (b"-half", "its answer is none that is known"),
    ],
)
def test_why_a_gateway_refused(line: bytes, expected: str | None) -> None:
    assert refusal_in(line) == expected


@given(st.text(alphabet=st.characters(exclude_characters="\n"), min_size=1, max_size=600))
def test_a_refusal_is_always_one_line(reason: str) -> None:
    line = refusal_line(reason)
    assert len(line) <= MAX_LINE
    assert line.count(b"\n") == 1
    assert refusal_in(line)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("server", True), ("worker/w1", True), ("worker/*", True), ("worker/", False), ("*", False), ("worker/W", False)],
)
def test_peers(name: str, expected: bool) -> None:
    assert is_peer(name) is expected


def test_services() -> None:
    assert is_service("rpc/a.1")
    assert not is_service("rpc/a.1\n")
