"""Server-sent events."""

import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.cli.event_stream import ServerEvent, lines, server_events


async def _chunks(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _events(*parts: bytes) -> list[ServerEvent]:
    return [event async for event in server_events(lines(_chunks(parts)))]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"data: 1\n\n", [ServerEvent("message", "1")]),
        (b"event: added\ndata: {}\n\n", [ServerEvent("added", "{}")]),
        (b"event: added\r\ndata: {}\r\n\r\n", [ServerEvent("added", "{}")]),
        (b": ping\n\ndata: 1\n\n", [ServerEvent("message", "1")]),
        (b"data: a\ndata: b\n\n", [ServerEvent("message", "a\nb")]),
        (b"data:tight\n\n", [ServerEvent("message", "tight")]),
        (b"id: 7\nretry: 5\ndata: 1\n\n", [ServerEvent("message", "1")]),
        (
            b"event: x\n\ndata: 1\n\n",
            [ServerEvent("message", "1")],
        ),  # a name without data is no event, and is forgotten
        (b"data: whole\n\ndata: cut o", [ServerEvent("message", "whole")]),
    ],
)
async def test_events(stream: bytes, events: list[ServerEvent]) -> None:
    assert await _events(stream) == events


@pytest.mark.anyio
@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
async def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    assert await _events(f"data: a{separator}b\n\n".encode()) == [ServerEvent("message", f"a{separator}b")]


@pytest.mark.anyio
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=4
    ),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
async def test_however_the_stream_is_cut(texts: list[str], cuts: list[int]) -> None:
    stream = "".join(f"event: e\ndata: {text}\n\n" for text in texts).encode()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parts = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert await _events(*parts) == [ServerEvent("e", text) for text in texts]
