"""One HTTP/1.1 request on a connection of its own, and how far its answer came: none of the product's code."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LINE = 1 << 20


@dataclass
class Reply:
    """An answer, or what there is of one. Times are of time.monotonic()."""

    start: float
    end: float = 0.0
    first_byte: float | None = None  # of the body
    status: int = 0  # 0: no head came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""  # why it is not whole; empty: it is

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The data of its server-sent events."""
        lines = self.body.decode().split("\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


async def ask(
    address: tuple[str, int],
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    body: Any = None,
    seconds: float,
) -> Reply:
    """Asks, and waits `seconds` at most until the answer is whole. Never raises: what went wrong is in the reply."""
    reply = Reply(time.monotonic())
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(*address, limit=MAX_LINE)
            writer.write(_request(method, path, headers, b"" if body is None else json.dumps(body).encode()))
            await _read(reader, reply)
    except TimeoutError:
        reply.failure = f"not whole after {seconds:g} s"
    except asyncio.IncompleteReadError as error:
        reply.body += error.partial
        reply.failure = "the connection ended"
    except (OSError, ValueError) as error:
        reply.failure = f"{type(error).__name__}: {error}"
    finally:
        if writer is not None:
            writer.transport.abort()
    reply.end = time.monotonic()
    return reply


def _request(method: str, path: str, headers: Mapping[str, str], content: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "connection: close", f"content-length: {len(content)}"]
    lines += ["content-type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def _read(reader: asyncio.StreamReader, reply: Reply) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    reply.status = int(head[0].split(" ")[1])
    reply.headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    if reply.headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            reply.body += (await reader.readexactly(size + 2))[:-2]
            reply.first_byte = reply.first_byte or time.monotonic()
        await reader.readuntil(b"\r\n")
    else:
        reply.body = await reader.readexactly(int(reply.headers["content-length"]))
        reply.first_byte = time.monotonic()
