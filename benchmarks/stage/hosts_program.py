"""Many played hosts in one process, and how to start one: it is told by its stdin what to play.

    python -m benchmarks.stage.hosts_program

The first line there is a `HostsSpec` as JSON.

Says `ready` when all of them have joined and take work. Then it answers each line `engines` with one line of JSON: the
engines that are there, as [instance, incarnation], by host. It ends when its stdin does; to lose the hosts, kill it.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.stage.hosts import PlayedHost, gpus
from stoker.logging import configure_logging
from stoker.temporal import connect, quiet_runtime

JOIN_AT_ONCE = 8
READY_WITHIN_SECONDS = 120.0
ANSWERS_WITHIN_SECONDS = 30.0
_LONGEST_LINE = 2**22  # bytes


@dataclass(frozen=True)
class HostsSpec:
    """Which hosts to play."""

    url: str  # the API's
    temporal: str  # address
    join_token: str
    folder: str  # for their identities
    names: list[str]
    gpus: int  # of each

    def written(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"


class HostsProcess:
    """A process that plays hosts."""

    def __init__(self, process: asyncio.subprocess.Process, spec: HostsSpec) -> None:
        self._process, self.names = process, spec.names

    @classmethod
    @asynccontextmanager
    async def running(cls, spec: HostsSpec) -> AsyncIterator["HostsProcess"]:
        """Its life, from when all have joined. Raises TimeoutError, and RuntimeError when it ends before."""
        pipe = asyncio.subprocess.PIPE
        program = (sys.executable, "-m", "benchmarks.stage.hosts_program")
        process = await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe, limit=_LONGEST_LINE)
        hosts = cls(process, spec)
        try:
            await hosts._ask(spec.written(), READY_WITHIN_SECONDS)
            yield hosts
        finally:
            await hosts.kill()

    @property
    def pid(self) -> int:
        """The process's."""
        return self._process.pid

    async def engines(self) -> dict[str, set[tuple[str, int]]]:
        """By host: the engines that are there. Raises TimeoutError, RuntimeError."""
        answer = json.loads(await self._ask("engines\n", ANSWERS_WITHIN_SECONDS))
        return {host: {(instance, number) for instance, number in found} for host, found in answer.items()}

    async def kill(self) -> None:
        """All its hosts are gone at once, without a word."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _ask(self, line: str, seconds: float) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode())
        answer = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        if not answer:
            raise RuntimeError(f"the process that plays {len(self.names)} hosts ended; what it said last is above")
        return answer.decode()


async def run(spec: HostsSpec, orders: asyncio.StreamReader) -> None:
    """Plays them until there are no more orders."""
    runtime = quiet_runtime()
    few = asyncio.Semaphore(JOIN_AT_ONCE)
    async with AsyncExitStack() as stack:

        async def start(name: str) -> PlayedHost:
            host = PlayedHost(spec.url, spec.join_token, name, Path(spec.folder), lambda: gpus(spec.gpus))
            async with few:
                # Each has connections of its own, as agents have.
                client = await connect(spec.temporal, identity=f"agent@{name}", wait_seconds=10, runtime=runtime)
                return await stack.enter_async_context(host.running(client))

        hosts = await asyncio.gather(*map(start, spec.names))
        print("ready", flush=True)
        while await orders.readline():
            print(json.dumps({host.name: _written(host) for host in hosts}), flush=True)


def _written(host: PlayedHost) -> list[tuple[str, int]]:
    return [(key.instance_id, key.incarnation) for key in host.engines.statuses()]


async def main() -> None:
    """Reads what to play."""
    configure_logging("hosts", "warning", json_lines=True)  # stdout is for answers
    orders = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    await run(HostsSpec(**json.loads(await orders.readline())), orders)
    await asyncio.sleep(0.1)  # lets the SDK's threads end


if __name__ == "__main__":
    asyncio.run(main())
