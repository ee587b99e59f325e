"""Downloads of a sharded model that are killed again and again, at random bytes; and what becomes of damaged ones.

    python -m tests.files_run [--shard-mib 64] [--kills 20] [--rate 16000000] [--seed N]

The hub is the stand-in of tests/fakes/hub.py, and sends as fast as a network does (--rate, a connection): what lies in
the sockets' buffers when a process is killed counts as fetched twice, and loopback would fill them. The downloads are
the agent's own processes, the workers are two stores with a real gateway between them. The last line is JSON; the exit
code is 1 where something is not as it should be.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import structlog

from activities.ports import DownloadProgress, ModelSourceError
from stoker.domain.files import Peer
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.units import MIB
from tests.fakes.hub import FakeHub
from tests.worker_agent.serving_files import Mesh, files_behind_gateway
from worker_agent.downloads import HubDownloads

REPO = "acme/big"
SHARDS = tuple(f"Q4_K_M/big-Q4_K_M-{index:05d}-of-00005.gguf" for index in range(1, 6))


@contextmanager
def hub_with_shards(folder: Path, shard_bytes: int) -> Iterator[FakeHub]:
    """The stand-in hub with a model of five shards of that size, of content that repeats nowhere."""
    for name in SHARDS:
        path = folder / REPO / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.shake_128(name.encode()).digest(shard_bytes))
    with FakeHub(folder) as hub:
        yield hub


def model_of(hub: FakeHub) -> ModelFiles:
    """What the control plane hands over after it inspected the repository."""
    stored = hub.files(REPO) or {}
    files = tuple(ModelFile(path=name, size=stored[name].size, sha256=stored[name].sha256) for name in SHARDS)
    return ModelFiles(source=ModelSource.parse(f"hf:{REPO}"), revision=hub.commit(REPO), files=files)


def store(hub: FakeHub, cache: Path, mesh_folder: Path | None = None) -> HubDownloads:
    """A worker's downloads into a cache of its own."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache.parent / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return HubDownloads(cache, environment=environment, mesh_folder=mesh_folder)


async def fetch(downloads: HubDownloads, files: ModelFiles, *peers: Peer) -> DownloadProgress:
    """To its end; the last progress."""
    steps = [step async for step in downloads.fetch(files, peers=peers)]
    return steps[-1]


def is_right(downloads: HubDownloads, files: ModelFiles) -> bool:
    """Whether every shard is there, byte for byte, and nothing is left over."""
    cached = downloads.cached(files)
    right = all(
        hashlib.sha256(cached.pointer(file.path).read_bytes()).hexdigest() == file.sha256 for file in files.files
    )
    return right and not list(cached.blobs.glob("*incomplete*"))


def download_processes() -> list[int]:
    """The downloading processes that this one has started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and "worker_agent.hub_download" in child.cmdline():
                found.append(child.pid)
    return found


async def kill_at(hub: FakeHub, sent: float) -> None:
    """Ends the downloading process once the hub has sent so many bytes in all."""
    while hub.content_sent < sent:  # noqa: ASYNC110  the hub is in threads, and knows of no loop
        await asyncio.sleep(0.001)
    for pid in download_processes():
        os.kill(pid, signal.SIGKILL)


async def killed_again_and_again(hub: FakeHub, cache: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """The whole model, its process killed at `kills` random bytes of it."""
    files = model_of(hub)
    hub.forget()
    downloads, killed, began = store(hub, cache), 0, time.monotonic()
    cached = downloads.cached(files)
    whole = False
    while not whole:
        missing = files.size - sum(map(cached.bytes_on_disk, files.files))
        gap = chance.uniform(0, 2) * missing / (kills - killed + 1) if killed < kills else math.inf
        killer = asyncio.create_task(kill_at(hub, hub.content_sent + gap))
        try:
            await fetch(downloads, files)
            whole = True
        except ModelSourceError as error:
            if not error.retryable:
                raise
            killed += 1
        killer.cancel()
        await asyncio.wait([killer])
    twice = hub.content_sent - files.size
    return {
        "bytes": files.size,
        "killed": killed,
        "fetched_twice_bytes": twice,
        "fetched_twice_share": round(twice / files.size, 5),
        "right": is_right(downloads, files),
        "seconds": round(time.monotonic() - began, 1),
    }


async def wanted_by_three(hub: FakeHub, cache: Path) -> dict[str, Any]:
    """Three instances of one agent, and another agent with the same cache, want the model at the same time."""
    files = model_of(hub)
    hub.forget()
    mine, other = store(hub, cache), store(hub, cache)
    await asyncio.gather(*(fetch(downloads, files) for downloads in (mine, mine, mine, other)))
    return {"fetched_bytes": hub.content_sent, "bytes": files.size, "right": is_right(mine, files)}


async def damaged(hub: FakeHub, cache: Path) -> dict[str, Any]:
    """A shard that rots on the disk, and one that comes wrong once."""
    files = model_of(hub)
    pointer = store(hub, cache).cached(files).pointer(SHARDS[2])
    content = bytearray(pointer.read_bytes())
    content[len(content) // 2] ^= 1
    pointer.write_bytes(content)
    hub.forget()
    downloads = store(hub, cache)
    await fetch(downloads, files)
    again, shard = hub.content_sent, files.files[2].size
    pointer.resolve().unlink()
    pointer.unlink()
    hub.forget()
    hub.faults.corrupt_answers = 1
    await fetch(downloads, files)
    return {
        "rotten_fetched_bytes": again,
        "came_wrong_fetched_bytes": hub.content_sent,
        "shard_bytes": shard,
        "right": is_right(downloads, files),
    }


async def from_the_first(hub: FakeHub, cache: Path, folder: Path) -> dict[str, Any]:
    """A second worker gets the model of the first, through the first's gateway."""
    files = model_of(hub)
    async with two_workers(hub, cache, folder) as (_, second, peer):
        hub.forget()
        began = time.monotonic()
        last = await fetch(second, files, peer)
        seconds = time.monotonic() - began
        return {
            "from_peer_bytes": last.from_peers,
            "from_hub_bytes": hub.content_sent,
            "hub_requests": len(hub.requests),
            "right": is_right(second, files),
            "mib_per_second": round(files.size / MIB / seconds, 1),
        }


@asynccontextmanager
async def two_workers(
    hub: FakeHub, cache: Path, folder: Path
) -> AsyncIterator[tuple[HubDownloads, HubDownloads, Peer]]:
    """A worker w1 on `cache` with its gateway, and a worker w2 with an empty one, which may ask the first."""
    async with AsyncExitStack() as stack:
        mesh = Mesh(folder / "mesh")
        first = store(hub, cache, mesh.folder("worker/w1"))
        peer = await stack.enter_async_context(files_behind_gateway(mesh, "w1", first.held_file))
        second = store(hub, folder / "second" / "cache", mesh.folder("worker/w2"))
        yield first, second, peer


async def run(shard_bytes: int, kills: int, rate: int, seed: int) -> dict[str, Any]:
    """All of it; what was found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "first" / "cache"
        with hub_with_shards(folder / "hub", shard_bytes) as hub:
            hub.faults.rate = rate
            found: dict[str, Any] = {"shard_bytes": shard_bytes, "seed": seed, "rate": rate}
            found["killed"] = await killed_again_and_again(hub, cache, kills, random.Random(seed))  # noqa: S311
            hub.faults.rate = None
            found["three"] = await wanted_by_three(hub, folder / "third" / "cache")
            found["damaged"] = await damaged(hub, cache)
            found["peer"] = await from_the_first(hub, cache, folder)
    killed, three, bad, peer = found["killed"], found["three"], found["damaged"], found["peer"]
    found["ok"] = bool(
        all(part["right"] for part in (killed, three, bad, peer))
        and killed["killed"] == kills
        and killed["fetched_twice_share"] < 0.05
        and three["fetched_bytes"] == three["bytes"]
        and bad["rotten_fetched_bytes"] == bad["shard_bytes"]
        and bad["came_wrong_fetched_bytes"] == 2 * bad["shard_bytes"]
        and peer["from_peer_bytes"] == killed["bytes"]
        and peer["from_hub_bytes"] == 0
    )
    return found


def main() -> int:
    """Runs, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shard-mib", type=int, default=64)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=int, default=16_000_000, help="bytes a second of each connection to the hub")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    found = asyncio.run(run(args.shard_mib * MIB, args.kills, args.rate, args.seed))
    print(json.dumps(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
