"""How soon an engine's slot is free after its client has gone.

    python -m tests.disconnect_run [--tries 20] [--engine bundled] [--engine native] [--engine PATH-OF-A-LLAMA-SERVER]

The door stands before the real engine, which reads its prompts in small pieces, as a GPU would do it: it looks at
nothing within a piece. A client asks, and goes

    before headers    as soon as the engine has begun with its request
    before a token    while the engine reads its prompt, a long one
    in mid-stream     while the engine writes

for a stream, and for an answer in one piece, with nothing else going on, and beside a stream that goes on. The seconds
are those from its going to the engine's own word, in its log, that the slot is free; then the engine is asked, too.
Asking it all the time would change what is measured: llama-server looks for gone clients after a second in which it
had nothing to say to anybody. So beside a stream, it may never look: 10 s count as that.

The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from entrypoints.demo.model import fetch_demo_model
from tests.api.openai import real_engine
from tests.api.openai.serving import KEY, Door, model, open_door

SLOTS = 2
WITHIN_SECONDS = 60.0
LATE_SECONDS = 10.0  # a slot that is not free by then counts as this late, and is freed otherwise
BATCH = 64  # tokens: what the engine reads before it looks around

_BEGUN = re.compile(r"launch_slot_: id +\d+ \| task (\d+) \| processing task")
_FREE = re.compile(r"release: id +\d+ \| task (\d+) \| stop processing")
_LISTENING = re.compile(r"listening on http://([0-9.]+):([0-9]+)")


@dataclass
class Engine:
    """A running engine, and what its log has told so far."""

    process: asyncio.subprocess.Process
    address: tuple[str, int]
    begun: list[int] = field(default_factory=list)  # tasks, in their order
    free: dict[int, float] = field(default_factory=dict)  # task: when its slot was free, by time.monotonic
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Reads the log to its end."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode("utf-8", "replace")
            if found := _BEGUN.search(text):
                self.begun.append(int(found[1]))
            elif found := _FREE.search(text):
                self.free[int(found[1])] = time.monotonic()
            else:
                continue
            self.changed.set()

    async def next_task(self, known: int) -> int:
        """The task that begins after `known` others have begun."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(self.begun) <= known:
                self.changed.clear()
                await self.changed.wait()
        return self.begun[known]

    async def freed(self, task: int, within: float = WITHIN_SECONDS) -> float:
        """When the task's slot was free. Raises TimeoutError when it is not, in so many seconds."""
        async with asyncio.timeout(within):
            while task not in self.free:
                self.changed.clear()
                await self.changed.wait()
        return self.free[task]

    async def slots_in_use(self) -> int:
        """Asks the engine itself."""
        host, port = self.address
        async with httpx.AsyncClient(trust_env=False, timeout=WITHIN_SECONDS) as client:
            answer = await client.get(
                f"http://{host}:{port}/slots", headers={"authorization": f"Bearer {real_engine.KEY}"}
            )
        return sum(slot["is_processing"] for slot in answer.raise_for_status().json())


def command_of(engine: str) -> list[str]:
    """What starts an engine: `bundled`, `native` (the one that is installed), or the path of a llama-server."""
    if "/" in engine:
        return [engine]
    if engine == "bundled":
        return [sys.executable, "-m", "worker_agent.bundled"]
    found = sorted(Path.home().glob(".cache/stoker/engines/*/bin/llama-server"))
    if not found:
        raise SystemExit("No native engine is installed: `stoker engine install` builds it.")
    return [str(found[-1])]


@asynccontextmanager
async def running(engine: str, weights: Path) -> AsyncIterator[Engine]:
    """The real engine, with one thread for each of its slots."""
    batch = ["-b", str(BATCH), "-ub", str(BATCH), "--cache-ram", "0"]
    options = ["-m", str(weights), "-a", "m", "--port", "0", "-c", "4096", "-np", str(SLOTS), "-t", "1", "-tb", "1"]
    process = await asyncio.create_subprocess_exec(
        *command_of(engine),
        *options,
        *batch,
        "-fit",
        "off",
        "--slots",
        env=os.environ | {"LLAMA_API_KEY": real_engine.KEY},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            async for line in process.stderr:
                if found := _LISTENING.search(line.decode("utf-8", "replace")):
                    break
            else:
                raise AssertionError("the engine did not start")
        started = Engine(process, (found[1], int(found[2])))
        reading = asyncio.create_task(started.read())
        await _loaded(started)
        yield started
        reading.cancel()
    finally:
        process.kill()
        await process.wait()


async def _loaded(engine: Engine) -> None:
    host, port = engine.address
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(WITHIN_SECONDS):
        while (await client.get(f"http://{host}:{port}/health")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class Client:
    """A client of the door that may go at any time."""

    def __init__(self, door: Door, *, stream: bool, words: int = 5) -> None:
        self._door, self._stream, self._words = door, stream, words
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def ask(self) -> None:
        """Sends a request for an answer that has no end of its own."""
        host, port = self._door.url.removeprefix("http://").split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        prompt = f"{time.monotonic()} " + "word " * self._words  # none that the engine has read before
        fields = {"model": "m", "prompt": prompt, "max_tokens": 1500, "ignore_eos": True, "stream": self._stream}
        body = json.dumps(fields).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self._writer.drain()

    async def tokens(self, count: int) -> None:
        """Waits until so many have come."""
        for _ in range(count):
            await self._reader.readuntil(b"data: ")

    async def read(self) -> None:
        """Reads whatever comes."""
        with contextlib.suppress(OSError):
            while await self._reader.read(65536):
                pass

    def go(self) -> float:
        """Goes; returns when."""
        self._writer.close()
        return time.monotonic()


WINDOWS = ("before headers", "before a token", "in mid-stream")


async def one_try(engine: Engine, door: Door, window: str, *, stream: bool) -> float:
    """Seconds from a client's going until its slot is free."""
    known = len(engine.begun)
    client = Client(door, stream=stream, words=700 if window == "before a token" else 5)
    await client.ask()
    task = await engine.next_task(known)
    if window == "before a token":
        await asyncio.sleep(0.5)
    elif window == "in mid-stream" and stream:
        await client.tokens(3)
    elif window == "in mid-stream":
        await asyncio.sleep(1.0)  # its prompt is short: by now it is being answered
    if task in engine.free:
        raise AssertionError("the answer was whole before the client could go")
    gone = client.go()
    try:
        return await engine.freed(task, LATE_SECONDS) - gone
    except TimeoutError:
        return LATE_SECONDS


async def tries(engine: Engine, door: Door, window: str, *, stream: bool, beside: bool, count: int) -> list[float]:
    """Several, perhaps beside a stream that goes on; at the end the engine itself is asked whether all is free."""
    found: list[float] = []
    while len(found) < count:
        other: Client | None = None
        reading: asyncio.Task[None] | None = None
        known = len(engine.begun)
        if beside:
            other = Client(door, stream=True)
            await other.ask()
            await engine.next_task(known)
            reading = asyncio.create_task(other.read())
        found.append(await one_try(engine, door, window, stream=stream))
        if other is not None and reading is not None:
            other.go()
            reading.cancel()
            for task in engine.begun[known:]:  # the one that was late too, now that nothing holds it any more
                await engine.freed(task)
    assert await engine.slots_in_use() == 0
    return found


async def table(name: str, weights: Path, count: int) -> list[dict[str, Any]]:
    """All windows of one engine."""
    rows = []
    async with running(name, weights) as engine:
        found = model(engine.address, name="m")
        [replica] = found.replicas
        route = found.model_copy(update={"replicas": (replace(replica, api_key=real_engine.KEY, slots=SLOTS),)})
        async with open_door([route]) as door:
            for beside in (False, True):
                for window in WINDOWS:
                    for stream in (True, False):
                        seconds = await tries(engine, door, window, stream=stream, beside=beside, count=count)
                        rows.append(_row(name, window, stream, beside, seconds))
                        print(_told(rows[-1]), flush=True)
    return rows


def _row(engine: str, window: str, stream: bool, beside: bool, seconds: list[float]) -> dict[str, Any]:
    return {
        "engine": engine,
        "window": window,
        "streamed": stream,
        "beside_a_stream": beside,
        "tries": len(seconds),
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "within_a_second": sum(each <= 1.0 for each in seconds),
    }


def _told(row: dict[str, Any]) -> str:
    return (
        f"{Path(row['engine']).name:8} {row['window']:16} {'streamed' if row['streamed'] else 'whole':9}"
        f"{'beside a stream' if row['beside_a_stream'] else 'alone':16}"
        f" median {row['seconds_median']:7.3f} s  max {row['seconds_max']:7.3f} s"
        f"  within a second {row['within_a_second']} of {row['tries']}"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--engine", action="append", help="bundled, native, or a path; both where none is named")
    chosen = parser.parse_args()
    weights = fetch_demo_model()
    rows = []
    for engine in chosen.engine or ("bundled", "native"):
        rows += asyncio.run(table(engine, weights, chosen.tries))
    print(json.dumps({"results": rows}))


if __name__ == "__main__":
    main()
