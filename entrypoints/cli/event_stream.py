"""Server-sent events, as the management API and the OpenAI API send them. No I/O of its own."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event; `name` is "message" where the stream names none."""

    name: str
    data: str


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """Lines of a stream, without their ends. A line ends at a line feed only.

    `str.splitlines` (which `httpx.Response.aiter_lines` uses) would also cut at U+2028 and U+0085, which stand
    unescaped inside JSON. A last line without an end is not passed on: it was cut off.
    """
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")


async def server_events(text: AsyncIterator[str]) -> AsyncGenerator[ServerEvent]:
    """The events of a stream's lines. Comments (`: ping`), ids and retry times are passed over."""
    name, data = "", list[str]()
    async for line in text:
        if not line:
            if data:
                yield ServerEvent(name or "message", "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
