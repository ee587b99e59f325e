"""How long a model that sleeps takes to its first token beyond the engine's own load, and whether all who come while it
wakes are answered.

The whole system runs as `stoker up` does, on this machine, with a small model that is written here. It falls asleep,
is asked one streamed request, again and again; then REQUESTS come at once. Ends with one JSON line, in seconds:
`beyond_load` is from sending the first request to its first token, less the engine's load (from the start of its
process to its first answer). `awake_first_token` is what the same request takes when the model does not sleep.
"""

import asyncio
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from benchmarks.deploy import percentile
from tests.builders import write_tiny_llama
from tests.e2e.system import System, eventually, running_system

ROUNDS = 5
REQUESTS = 100
MODEL_BYTES = 5_000_000
NAME = "sleeper"
AIM_SECONDS = 1.5
ASLEEP_WITHIN_SECONDS = 90.0


def main() -> None:
    """Measures, and prints one JSON line at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        model = write_tiny_llama(Path(scratch) / "model.gguf", size_hint=MODEL_BYTES)
        with running_system(Path(scratch) / "data", "--model-dir", scratch) as system:
            flags = ("--min-replicas", "0", "--max-replicas", "1", "--idle-timeout", "5", "--context", "512")
            system.cli("deploy", NAME, "--model", f"file:{model}", *flags)
            awake = asyncio.run(first_token(system))
            firsts, loads = [], []
            for _ in range(ROUNDS):
                fall_asleep(system)
                firsts.append(asyncio.run(first_token(system)))
                loads.append(load_seconds(system))
            fall_asleep(system)
            outcomes, slowest = asyncio.run(crowd(system))
            crowd_load = load_seconds(system)
    beyond = [first - load for first, load in zip(firsts, loads, strict=True)]
    result = {
        "benchmark": "wake_from_zero",
        "cores": os.cpu_count(),
        "rounds": ROUNDS,
        "first_token_p50": percentile(firsts, 50),
        "engine_load_p50": percentile(loads, 50),
        "awake_first_token": round(awake, 3),
        "beyond_load_p50": percentile(beyond, 50),
        "beyond_load_max": round(max(beyond), 3),
        "aim": AIM_SECONDS,
        "requests_during_wake": REQUESTS,
        "outcomes": dict(outcomes),
        "slowest_beyond_load": round(slowest - crowd_load, 3),
    }
    print(json.dumps(result))


def fall_asleep(system: System) -> None:
    """Waits until no replica is left."""
    eventually(
        lambda: (system.deployment(NAME) or {}).get("instances") == [], system.logs, seconds=ASLEEP_WITHIN_SECONDS
    )


def load_seconds(system: System) -> float:
    """The engine's own load of the replica that runs."""
    (instance,) = system.running(NAME)
    return float(instance["load_seconds"])


async def first_token(system: System) -> float:
    """Seconds from a streamed request to its first event."""
    async with door(system) as client:
        began = time.perf_counter()
        async with client.stream("POST", "/chat/completions", json=body(stream=True)) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    return time.perf_counter() - began
    raise RuntimeError("the stream has ended before its first token")


async def crowd(system: System) -> tuple[Counter[str], float]:
    """What becomes of many requests at once, and the seconds to the last answer."""
    async with door(system) as client:

        async def ask() -> str:
            response = await client.post("/chat/completions", json=body(stream=False))
            return "answered" if response.status_code == 200 else f"{response.status_code} {response.text[:200]}"

        began = time.perf_counter()
        outcomes = Counter(await asyncio.gather(*(ask() for _ in range(REQUESTS))))
        return outcomes, time.perf_counter() - began


def door(system: System) -> httpx.AsyncClient:
    """A client that opens as many connections as it needs, and waits."""
    return httpx.AsyncClient(
        base_url=f"{system.url}/v1",
        headers={"authorization": f"Bearer {system.admin_key}"},
        timeout=120.0,
        trust_env=False,
        limits=httpx.Limits(max_connections=None),
    )


def body(*, stream: bool) -> dict[str, object]:
    """A short request."""
    messages = [{"role": "user", "content": "hello"}]
    return {"model": NAME, "messages": messages, "max_tokens": 4, "stream": stream}


if __name__ == "__main__":
    main()
