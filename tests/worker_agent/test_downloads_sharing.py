"""Downloads that share a host with others: its disk, its files, its instances; and files from other workers."""

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from activities.ports import DownloadProgress, EvictionRefusedError, ModelSourceError
from stoker.domain.files import Peer
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.units import KIB, MIB
from tests.cluster import eventually_async
from tests.fakes.hub import FakeHub
from tests.worker_agent.serving_files import Mesh, files_behind_gateway
from tests.worker_agent.test_downloads import processes
from worker_agent import shared_uses
from worker_agent.downloads import JUST_USED_SECONDS, HubDownloads
from worker_agent.file_records import FileRecords

pytestmark = pytest.mark.anyio

SHARDS = tuple(f"big-Q4_K_M-{index:05d}-of-00005.gguf" for index in range(1, 6))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    """acme/big: five shards of 1 MiB · acme/one and acme/two: one file of 3 MiB each."""
    contents = {f"acme/big/{name}": MIB for name in SHARDS} | {"acme/one/1.gguf": 3 * MIB, "acme/two/2.gguf": 3 * MIB}
    for name, size in contents.items():
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.shake_128(name.encode()).digest(size))
    with FakeHub(tmp_path / "hub") as hub:
        yield hub


def model(fake: FakeHub, repo: str) -> ModelFiles:
    stored = fake.files(repo) or {}
    files = tuple(ModelFile(path=file.name, size=file.size, sha256=file.sha256) for file in stored.values())
    return ModelFiles(source=ModelSource.parse(f"hf:{repo}"), revision=fake.commit(repo), files=files)


class Host:
    """One worker's agent on a cache; `restarted` is the next one. A test says what is free, what runs, and the time."""

    def __init__(self, fake: FakeHub, folder: Path, mesh_folder: Path | None = None) -> None:
        self.fake, self.folder, self.mesh_folder = fake, folder, mesh_folder
        self.free, self.now = 1 << 40, 10_000.0
        self.live: set[str] = set()
        self.records = "files.json"
        self.restarted()

    def restarted(self, *, evict_for_room: bool = True) -> HubDownloads:
        self.downloads = HubDownloads(
            self.folder / "cache",
            environment={
                "HF_ENDPOINT": self.fake.url,
                "HF_HOME": str(self.folder / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1",
            },
            free_space=lambda _: self.free - self.used(),
            records=FileRecords(self.folder / self.records, clock=lambda: self.now),
            live=lambda: self.live,
            evict_for_room=evict_for_room,
            mesh_folder=self.mesh_folder,
        )
        self.downloads.stored.now = lambda: self.now
        return self.downloads

    def used(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "cache").glob("models--*/blobs/*"))

    async def fetch(
        self, files: ModelFiles, *peers: Peer, user: str = "", keep: tuple[str, ...] = ()
    ) -> DownloadProgress:
        fetching = self.downloads.fetch(files, user=user, peers=peers, keep=keep)
        return [step async for step in fetching][-1]

    def right(self, files: ModelFiles) -> bool:
        cached = self.downloads.cached(files)
        return all(
            hashlib.sha256(cached.pointer(file.path).read_bytes()).hexdigest() == file.sha256 for file in files.files
        )


@pytest.fixture
def host(fake: FakeHub, tmp_path: Path) -> Host:
    return Host(fake, tmp_path / "first")


# --- killed, shared, damaged ------------------------------------------------------------------------------------------


async def killed_at(host: Host, files: ModelFiles, done: int) -> None:
    """Fetches; the process is killed when so much is there."""
    async with asyncio.timeout(60), aclosing(host.downloads.fetch(files)) as steps:
        async for step in steps:
            if step.done == done:
                os.kill(processes()[0].pid, signal.SIGKILL)


async def test_killed_again_and_again_each_file_goes_on_where_it_was(fake: FakeHub, host: Host) -> None:
    files = model(fake, "acme/big")
    cached = host.downloads.cached(files)
    for pause in (192 * KIB, 64 * KIB, 320 * KIB):
        before = {file.sha256: cached.bytes_on_disk(file) for file in files.files}
        fake.faults.pause_at, fake.faults.go = pause, type(fake.faults.go)()
        fake.forget()
        with pytest.raises(ModelSourceError, match="exit code -9") as raised:
            await killed_at(host, files, sum(before.values()) + 4 * pause)  # all four have got what they get
        assert raised.value.retryable
        fake.faults.go.set()
        asked = {
            request.path.rpartition("/")[2].partition("?")[0]: request.range for request in fake.content_requests()
        }
        assert asked == {sha256: f"bytes={before[sha256]}-" for sha256 in asked}
        assert len(asked) == 4
        assert {cached.bytes_on_disk(file) for file in files.files if file.sha256 in asked} == {
            before[sha256] + pause for sha256 in asked
        }
    fake.faults.pause_at = None
    assert (await host.fetch(files)).done == files.size
    assert host.right(files)


async def test_damaged_content_under_another_commit_is_found_and_fetched_again(fake: FakeHub, host: Host) -> None:
    first = model(fake, "acme/one")
    await host.fetch(first)
    pointer = host.downloads.cached(first).pointer("1.gguf")
    content = bytearray(pointer.read_bytes())
    content[77] ^= 1
    pointer.write_bytes(content)
    (fake.root / "acme/one/README.md").write_text("another commit")
    second = model(fake, "acme/one")
    second = second.model_copy(update={"files": tuple(file for file in second.files if file.path == "1.gguf")})
    host.restarted()
    fake.forget()
    with capture_logs() as logs:
        await host.fetch(second)
    assert fake.content_sent == 3 * MIB
    assert host.right(second)
    assert any("is damaged on the disk" in entry.get("remark", "") for entry in logs)


async def test_three_instances_and_another_agent_fetch_it_once(fake: FakeHub, host: Host) -> None:
    files = model(fake, "acme/big")
    other = Host(fake, host.folder)
    fake.faults.rate = 4 * MIB
    fetching = [
        one.fetch(files, user=f"llama-{name}") for one, name in ((host, "a"), (host, "b"), (host, "c"), (other, "d"))
    ]
    assert [step.done for step in await asyncio.gather(*fetching)] == [files.size] * 4
    assert fake.content_sent == files.size
    assert host.right(files)


async def test_two_models_that_share_a_file_fetch_it_once(fake: FakeHub, host: Host) -> None:
    first = model(fake, "acme/one")
    (fake.root / "acme/one/README.md").write_text("another commit")
    second = model(fake, "acme/one")
    second = second.model_copy(update={"files": tuple(file for file in second.files if file.path == "1.gguf")})
    assert first.key != second.key
    fake.faults.rate = 4 * MIB
    old = first.model_copy(update={"revision": second.revision, "source": ModelSource.parse("hf:acme/one/1.gguf")})
    await asyncio.gather(host.fetch(second), host.fetch(old))
    assert fake.content_sent == 3 * MIB


async def test_a_shard_that_rots_is_found_by_the_next_agent_and_fetched_again(fake: FakeHub, host: Host) -> None:
    files = model(fake, "acme/big")
    await host.fetch(files)
    pointer = host.downloads.cached(files).pointer(SHARDS[3])
    content = bytearray(pointer.read_bytes())
    content[77] ^= 1
    pointer.write_bytes(content)
    fake.forget()
    host.restarted()
    with capture_logs() as logs:
        assert (await host.fetch(files)).done == files.size
    assert fake.content_sent == MIB
    assert host.right(files)
    assert any("is damaged on the disk" in entry.get("remark", "") for entry in logs)
    fake.forget()
    host.restarted()
    with capture_logs() as logs:
        await host.fetch(files)
    assert (fake.requests, logs) == ([], []), "what was found right is not read again, nor by the next agent"


async def test_what_another_tool_has_fetched_is_checked_once_and_used(fake: FakeHub, host: Host) -> None:
    files = model(fake, "acme/one")
    await host.fetch(files)
    (host.folder / "files.json").unlink()  # as if it had not been us
    host.restarted()
    fake.forget()
    await host.fetch(files)
    assert fake.requests == []
    (stored,) = host.downloads.stored.models()
    assert (stored.own, stored.done) == (False, 3 * MIB)


# --- room -------------------------------------------------------------------------------------------------------------


async def filled(host: Host, *repos: str) -> list[ModelFiles]:
    """Models that were fetched, one after the other, long ago; then there is no room for more."""
    found = []
    for repo in repos:
        found.append(model(host.fake, repo))
        await host.fetch(found[-1], user=f"of-{repo.rpartition('/')[2]}")
        host.now += 1000
    host.free = host.used()
    return found


async def test_the_one_that_nobody_used_for_longest_makes_room(fake: FakeHub, host: Host) -> None:
    one, two = await filled(host, "acme/one", "acme/two")
    big = model(fake, "acme/big").model_copy(update={"files": model(fake, "acme/big").files[:2]})
    with capture_logs() as logs:
        last = await host.fetch(big, user="llama-a")
    assert last.evicted == (one.key,)
    assert [stored.model for stored in host.downloads.stored.models()] == sorted([two.key, big.key])
    (evicted,) = [entry for entry in logs if entry["event"] == "model_evicted"]
    assert (evicted["model"], evicted["freed_bytes"], evicted["reason"]) == (one.key, 3 * MIB, "room for hf:acme/big")
    assert host.right(big)


@pytest.mark.parametrize("reason", ["setting", "kept", "in use", "just used", "not own", "would not help"])
async def test_what_must_stay_stays_and_the_lack_is_told(fake: FakeHub, host: Host, reason: str) -> None:
    (one,) = await filled(host, "acme/one")
    two = model(fake, "acme/two")
    keep: tuple[str, ...] = ()
    if reason == "setting":
        host.restarted(evict_for_room=False)
    elif reason == "kept":
        keep = (one.key,)
    elif reason == "in use":
        host.live = {"of-one"}
    elif reason == "just used":
        await host.fetch(one)
        host.now += JUST_USED_SECONDS
    elif reason == "not own":
        (host.folder / "files.json").unlink()
        host.restarted()
    else:
        two = model(fake, "acme/big")
    with pytest.raises(ModelSourceError, match="more on the disk of") as raised:
        await host.fetch(two, keep=keep)
    assert (raised.value.code, raised.value.retryable) == ("disk_full", True)
    assert host.downloads.cached(one).holds(one.files[0])


# --- taken away by order ----------------------------------------------------------------------------------------------


async def test_an_order_takes_a_model_away_and_it_can_be_fetched_again(fake: FakeHub, host: Host) -> None:
    one, two = await filled(host, "acme/one", "acme/two")
    assert await host.downloads.evict(one.key) == 3 * MIB
    assert [stored.model for stored in host.downloads.stored.models()] == [two.key]
    assert host.downloads.holds() == (two.key,)
    host.free = 1 << 40
    assert (await host.fetch(one)).done == 3 * MIB
    assert host.right(one)


async def test_what_is_in_use_or_found_is_refused(fake: FakeHub, host: Host) -> None:
    (one,) = await filled(host, "acme/one")
    host.live = {"of-one"}
    with pytest.raises(EvictionRefusedError, match="is in use on this worker") as refused:
        await host.downloads.evict(one.key, force=True)
    assert refused.value.code == "file_in_use"
    host.live = set()
    (host.folder / "files.json").unlink()
    host.restarted()
    with pytest.raises(EvictionRefusedError, match="was not fetched by Stoker") as refused:
        await host.downloads.evict(one.key)
    assert refused.value.code == "file_not_own"
    assert await host.downloads.evict(one.key, force=True) == 3 * MIB
    for key in (one.key, "file:/etc/passwd", ""):
        with pytest.raises(EvictionRefusedError, match="has no model") as refused:
            await host.downloads.evict(key, force=True)
        assert refused.value.code == "not_found"


@pytest.mark.parametrize("is_alive", [True, False])
async def test_what_another_agent_on_the_host_uses_stays(
    fake: FakeHub, host: Host, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents share the user's cache, and each knows its own instances only."""
    (files,) = await filled(host, "acme/one")
    other = Host(fake, host.folder)
    other.records = "others.json"
    other.restarted()
    other.live = {"theirs"}
    await other.fetch(files, user="theirs")
    for one in (host, other):
        one.now += 10 * JUST_USED_SECONDS
    other.downloads.stored.changed()  # as with every report
    monkeypatch.setattr(shared_uses, "is_alive", lambda *_: is_alive)
    host.free = 4 * MIB
    if is_alive:
        with pytest.raises(EvictionRefusedError, match="in use"):
            await host.downloads.evict(files.key, force=True)
        with pytest.raises(ModelSourceError, match="make room"):
            await host.fetch(model(fake, "acme/two"))
    else:
        await host.fetch(model(fake, "acme/two"))
    assert host.downloads.cached(files).pointer("1.gguf").exists() is is_alive


async def test_one_that_is_called_off_while_it_asks_for_room_leaves_no_promise(fake: FakeHub, host: Host) -> None:
    asked, go = asyncio.Event(), threading.Event()
    loop, measured = asyncio.get_running_loop(), host.downloads._room._free_space

    def slowly(folder: Path) -> int:
        loop.call_soon_threadsafe(asked.set)
        assert go.wait(30)
        return measured(folder)

    host.downloads._room._free_space = slowly
    fetching = asyncio.create_task(host.fetch(model(fake, "acme/one")))
    await asked.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    host.downloads._room._free_space = measured
    go.set()
    other = model(fake, "acme/two")
    asking = asyncio.to_thread(host.downloads._room.promise, host.downloads.cached(other), other.files)
    _, second = await asking  # it waits for the first one to be written
    assert second is not None

    async def is_alone() -> bool:
        return list(second.parent.glob("*.json")) == [second]

    await eventually_async(is_alone, "the first promise is given back")


async def test_what_is_being_fetched_is_in_use(fake: FakeHub, host: Host) -> None:
    one = model(fake, "acme/one")
    fake.faults.pause_at = MIB
    async with aclosing(host.downloads.fetch(one)) as steps:
        async for step in steps:
            if step.done == MIB:
                break
        with pytest.raises(EvictionRefusedError, match="is in use"):
            await host.downloads.evict(one.key)
    fake.faults.go.set()
    assert await host.downloads.evict(one.key) == MIB
    assert host.used() == 0


# --- from another worker ----------------------------------------------------------------------------------------------


@pytest.fixture
async def workers(fake: FakeHub, tmp_path: Path) -> AsyncIterator[tuple[Host, Host, Peer]]:
    """Two workers of one cluster, the first behind its gateway."""
    mesh = Mesh(tmp_path / "mesh")
    first = Host(fake, tmp_path / "first")
    second = Host(fake, tmp_path / "second", mesh.folder("worker/w2"))
    async with files_behind_gateway(mesh, "w1", lambda model, path: first.downloads.held_file(model, path)) as peer:
        yield first, second, peer


async def test_a_second_worker_gets_it_from_the_first(fake: FakeHub, workers: tuple[Host, Host, Peer]) -> None:
    first, second, peer = workers
    files = model(fake, "acme/big")
    await first.fetch(files)
    fake.forget()
    last = await second.fetch(files, peer)
    assert (last.done, last.from_peers) == (files.size, files.size)
    assert fake.requests == [], "the hub is not asked at all"
    assert second.right(files)


@pytest.mark.parametrize("there", ["nothing", "a wrong file", "another port", "a part"])
async def test_what_a_peer_does_not_give_comes_from_the_hub(
    fake: FakeHub, workers: tuple[Host, Host, Peer], there: str
) -> None:
    first, second, peer = workers
    files = model(fake, "acme/one")
    sha256 = files.files[0].sha256
    if there == "another port":
        peer = peer.model_copy(update={"mesh_port": 1})
    elif there != "nothing":
        await first.fetch(files)
        pointer = first.downloads.cached(files).pointer("1.gguf")
        if there == "a wrong file":
            pointer.write_bytes(bytes(3 * MIB))
        else:
            os.truncate(pointer, MIB)
    second.downloads.cached(files).blobs.mkdir(parents=True)
    second.downloads.cached(files).partial(sha256).write_bytes((fake.root / "acme/one/1.gguf").read_bytes()[: 64 * KIB])
    fake.forget()
    with capture_logs() as logs:
        last = await second.fetch(files, peer)
    assert last.done == 3 * MIB
    assert second.right(files)
    start = 0 if there == "a wrong file" else 64 * KIB  # else the hub goes on where the part ends
    assert [request.range for request in fake.content_requests()] == [f"bytes={start}-"]
    assert any("remark" in entry for entry in logs), "it is said why"
    assert first.downloads.held_file(files.key, "1.gguf") is None or there != "nothing"


async def test_a_stranger_gets_nothing(fake: FakeHub, workers: tuple[Host, Host, Peer], tmp_path: Path) -> None:
    first, _, peer = workers
    files = model(fake, "acme/one")
    await first.fetch(files)
    fake.forget()
    stranger = Host(fake, tmp_path / "stranger", Mesh(tmp_path / "other-mesh").folder("worker/w2"))
    last = await stranger.fetch(files, peer)
    assert (last.from_peers, fake.content_sent) == (0, 3 * MIB)
