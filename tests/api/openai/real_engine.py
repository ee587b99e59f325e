"""The real engine, the bundled llama.cpp, as a process of its own."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

KEY = "sk-of-the-engine"


@dataclass(frozen=True)
class RealEngine:
    """A running engine."""

    host: str
    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    # Ask rarely: every answer of the engine, to anyone, puts off by a second its look at whose client has gone
    # (server_response::recv_with_timeout waits anew after each).

    async def slots_in_use(self) -> int:
        """How many requests it works on now."""
        return sum(slot["is_processing"] for slot in (await self._get("/slots")).json())

    async def waiting(self) -> int:
        """How many requests wait for a slot."""
        found = re.search(r"^llamacpp:requests_deferred ([0-9]+)$", (await self._get("/metrics")).text, re.MULTILINE)
        assert found is not None
        return int(found[1])

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            response = await client.get(
                f"http://{self.host}:{self.port}{path}", headers={"authorization": f"Bearer {KEY}"}
            )
            return response.raise_for_status()


@contextmanager
def running_engine(model: Path, *options: str) -> Iterator[RealEngine]:
    """Starts the engine on a free port with one thread, waits until it listens, and ends it."""
    fixed = ["-c", "2048", "-t", "1", "-tb", "1", "--cache-ram", "0", "-fit", "off", "--slots", "--metrics"]
    process = subprocess.Popen(
        [sys.executable, "-m", "worker_agent.bundled", "-m", str(model), "--port", "0", *fixed, *options],
        env=os.environ | {"LLAMA_API_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    try:
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"listening on http://([0-9.]+):([0-9]+)", line):
                reader.start()  # its log must go somewhere, or it would wait for a reader
                yield RealEngine(found[1], int(found[2]), process)
                return
        raise AssertionError("the engine did not start:\n" + "".join(log[-30:]))
    finally:
        process.kill()
        process.wait()
        if reader.ident is not None:
            reader.join()
        process.stderr.close()
