"""Downloads in real processes, from a stand-in of the hub."""

import asyncio
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
import structlog
from huggingface_hub import try_to_load_from_cache

from activities.ports import DownloadProgress, ModelSourceError
from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.statuses import FileProgress
from stoker.domain.units import KIB, MIB
from tests.fakes.hub import FakeHub
from worker_agent.downloads import HubDownloads

pytestmark = pytest.mark.anyio
TOKEN = "hf_of_this_test"
SHARDS = tuple(f"deep/big-Q4_K_M-{index:05d}-of-00003.gguf" for index in (1, 2, 3))


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeHub]:
    """acme/one: one file of 3 MiB · acme/big: three shards of 1 MiB · acme/gated."""
    root = tmp_path / "hub"
    contents = {
        "acme/one/one.gguf": 3 * MIB,
        "acme/gated/one.gguf": 3 * MIB,
        **{f"acme/big/{name}": MIB for name in SHARDS},
    }
    for name, size in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(hashlib.shake_128(name.encode()).digest(size))
    with FakeHub(root, token=TOKEN, gated=("acme/gated",)) as hub:
        yield hub


@pytest.fixture
def environment(fake: FakeHub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": fake.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def downloads(cache: Path, environment: dict[str, str]) -> HubDownloads:
    return HubDownloads(cache, environment=environment)


def model(fake: FakeHub, repo: str) -> ModelFiles:
    """What the control plane hands over after it inspected the repository."""
    stored = fake.files(repo)
    assert stored is not None
    files = tuple(ModelFile(path=file.name, size=file.size, sha256=file.sha256) for file in stored.values())
    return ModelFiles(source=ModelSource.parse(f"hf:{repo}"), revision=fake.commit(repo), files=files)


def processes() -> list[psutil.Process]:
    """The downloading processes of this test; a child of another one may be a zombie still."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "worker_agent.hub_download" in child.cmdline()]


def parts(cache: Path) -> list[Path]:
    """What has arrived of files that are not whole."""
    return list(cache.rglob("*.incomplete"))


def whole(files: ModelFiles, each: int) -> DownloadProgress:
    """The progress when `each` bytes of every file are there."""
    shown = tuple(FileProgress(path=file.path, done=each, total=file.size) for file in files.files)
    return DownloadProgress(done=each * len(shown), total=files.size, files=shown)


async def collect(downloads: HubDownloads, files: ModelFiles) -> list[DownloadProgress]:
    return [progress async for progress in downloads.fetch(files)]


async def arrived(downloads: HubDownloads, files: ModelFiles, count: int) -> None:
    """Returns, closing its generator, when `count` bytes have arrived."""
    async with asyncio.timeout(60), aclosing(downloads.fetch(files)) as progress:
        async for step in progress:
            if step.done >= count:
                return


async def test_all_shards_come_under_their_names(fake: FakeHub, downloads: HubDownloads, cache: Path) -> None:
    files = model(fake, "acme/big")

    progress = await collect(downloads, files)

    assert progress[0] == whole(files, 0)
    assert progress[-1] == whole(files, MIB)
    assert [step.done for step in progress] == sorted(step.done for step in progress)
    pointers = [downloads.cached(files).pointer(name) for name in SHARDS]
    assert len({pointer.parent for pointer in pointers}) == 1
    for name, pointer in zip(SHARDS, pointers, strict=True):
        assert pointer.read_bytes() == (fake.root / "acme/big" / name).read_bytes()
        # The hub's own library finds it: the cache is shared with every other tool on the host.
        assert try_to_load_from_cache("acme/big", name, cache_dir=cache, revision=files.revision) == str(pointer)
    assert parts(cache) == []
    assert processes() == []


async def test_what_is_there_is_not_asked_for(fake: FakeHub, downloads: HubDownloads) -> None:
    files = model(fake, "acme/one")
    await collect(downloads, files)
    fake.forget()
    assert await collect(downloads, files) == [whole(files, 3 * MIB)]
    assert fake.requests == []


async def test_what_was_fetched_is_held_from_then_on(fake: FakeHub, downloads: HubDownloads) -> None:
    files = model(fake, "acme/big")
    assert downloads.holds() == ()
    await collect(downloads, files)
    assert downloads.holds() == (files.key,)


async def test_the_same_content_under_another_commit_is_only_linked(fake: FakeHub, downloads: HubDownloads) -> None:
    await collect(downloads, model(fake, "acme/one"))
    (fake.root / "acme/one/README.md").write_text("a new commit")
    files = model(fake, "acme/one").model_copy(update={"files": model(fake, "acme/one").files[1:]})
    fake.forget()
    assert (await collect(downloads, files))[-1].done == 3 * MIB
    assert fake.content_sent == 0
    assert downloads.cached(files).holds(files.files[0])


async def test_a_killed_download_is_gone_on_with(fake: FakeHub, downloads: HubDownloads, cache: Path) -> None:
    files = model(fake, "acme/one")
    fake.faults.pause_at = 2 * MIB
    await arrived(downloads, files, 2 * MIB)
    assert processes() == []
    fake.faults.go.set()
    (part,) = parts(cache)
    assert part.stat().st_size == 2 * MIB
    fake.forget()

    progress = await collect(downloads, files)

    assert progress[0].done == 2 * MIB
    assert [request.range for request in fake.content_requests()] == [f"bytes={2 * MIB}-"]
    assert fake.content_sent == MIB
    assert downloads.cached(files).pointer("one.gguf").read_bytes() == (fake.root / "acme/one/one.gguf").read_bytes()


async def test_cancelling_who_waits_ends_the_process(fake: FakeHub, downloads: HubDownloads) -> None:
    fake.faults.pause_at = MIB
    waiting = asyncio.create_task(collect(downloads, model(fake, "acme/one")))
    assert await asyncio.to_thread(fake.faults.paused.wait, 60)
    (process,) = processes()

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert not psutil.pid_exists(process.pid)


async def test_the_process_does_not_outlive_a_killed_agent(
    fake: FakeHub, environment: dict[str, str], cache: Path
) -> None:
    fake.faults.pause_at = MIB
    agent = """
import asyncio, pathlib, sys
from stoker.domain.models import ModelFiles
from worker_agent.downloads import HubDownloads
async def main():
    async for _ in HubDownloads(pathlib.Path(sys.argv[1])).fetch(ModelFiles.model_validate_json(sys.argv[2])): pass
asyncio.run(main())
"""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", agent, str(cache), model(fake, "acme/one").model_dump_json()),
        env={**os.environ, **environment, "HF_HUB_DOWNLOAD_TIMEOUT": "600"},  # so that only the agent's end can end it
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.to_thread(fake.faults.paused.wait, 60)
    (download,) = psutil.Process(running.pid).children()
    running.kill()
    await running.wait()
    await asyncio.to_thread(download.wait, 60)
    assert not download.is_running()


async def test_two_who_want_the_same_share_one_download(fake: FakeHub, downloads: HubDownloads) -> None:
    files = model(fake, "acme/one")
    fake.faults.pause_at = MIB
    first = asyncio.create_task(arrived(downloads, files, MIB))
    second = asyncio.create_task(
        collect(downloads, files.model_copy(update={"source": ModelSource.parse("hf:acme/one:Q4")}))
    )

    await first  # leaves, and the other goes on
    assert len(processes()) == 1
    fake.faults.go.set()

    assert (await second)[-1].done == 3 * MIB
    assert [request.range for request in fake.content_requests()] == ["bytes=0-"]
    assert processes() == []


async def test_no_room_is_told_before_a_byte_is_fetched(
    fake: FakeHub, cache: Path, environment: dict[str, str]
) -> None:
    downloads = HubDownloads(cache, environment=environment, free_space=lambda _: 2 * MIB)
    with pytest.raises(
        ModelSourceError, match=rf"needs 3 MiB more on the disk of {cache}, where 2 MiB are free"
    ) as raised:
        await collect(downloads, model(fake, "acme/one"))
    assert raised.value.code == "disk_full"
    assert fake.requests == []


async def test_room_is_not_promised_twice(fake: FakeHub, cache: Path, environment: dict[str, str]) -> None:
    downloads = HubDownloads(cache, environment=environment, free_space=lambda _: 4 * MIB)
    fake.faults.pause_at = 0
    async with aclosing(downloads.fetch(model(fake, "acme/one"))) as first:
        assert (await anext(first)).done == 0
        with pytest.raises(ModelSourceError, match=r"needs 3 MiB more .* beside 3 MiB for other downloads"):
            await collect(downloads, model(fake, "acme/big"))


@pytest.mark.parametrize("fault", ["busy", "cut", "no ranges"])
async def test_what_passes_is_waited_out(fake: FakeHub, downloads: HubDownloads, fault: str) -> None:
    files = model(fake, "acme/one")
    if fault == "busy":
        fake.faults.unavailable = 2
    else:
        fake.faults.cut_after = MIB
        fake.faults.no_ranges = fault == "no ranges"
    assert (await collect(downloads, files))[-1].done == 3 * MIB
    whole = (fake.root / "acme/one/one.gguf").read_bytes()
    assert downloads.cached(files).pointer("one.gguf").read_bytes() == whole
    assert fake.content_sent <= 3 * MIB + (MIB if fault == "no ranges" else 256 * KIB)


async def test_other_bytes_than_announced_are_refused(fake: FakeHub, downloads: HubDownloads, cache: Path) -> None:
    files = model(fake, "acme/one")
    fake.faults.corrupt = True
    with pytest.raises(ModelSourceError, match=files.files[0].sha256) as raised:
        await collect(downloads, files)
    assert (raised.value.code, raised.value.retryable) == ("checksum_mismatch", False)
    assert parts(cache) == []
    assert not downloads.cached(files).blob(files.files[0].sha256).exists()


async def test_a_spoilt_part_is_fetched_anew(fake: FakeHub, downloads: HubDownloads) -> None:
    files = model(fake, "acme/one")
    part = downloads.cached(files).partial(files.files[0].sha256)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(MIB))  # what a crash of the host leaves: the right length, and no content
    await collect(downloads, files)
    assert [request.range for request in fake.content_requests()] == [f"bytes={MIB}-", "bytes=0-"]
    assert downloads.cached(files).pointer("one.gguf").read_bytes() == (fake.root / "acme/one/one.gguf").read_bytes()


async def test_a_cut_off_file_in_the_cache_is_replaced(fake: FakeHub, downloads: HubDownloads) -> None:
    files = model(fake, "acme/one")
    await collect(downloads, files)
    pointer = downloads.cached(files).pointer("one.gguf")
    os.truncate(pointer, MIB)
    await collect(downloads, files)
    assert pointer.read_bytes() == (fake.root / "acme/one/one.gguf").read_bytes()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        pytest.param(
            {"source": ModelSource.parse("hf:acme/none")}, "model_not_found", "HF_TOKEN on the worker", id="repo"
        ),
        pytest.param({"revision": "0" * 40}, "model_not_found", "no longer has the revision", id="revision"),
        pytest.param(
            {"files": (ModelFile(path="other.gguf", size=1),)}, "file_not_found", "no longer has the file", id="file"
        ),
        pytest.param(
            {"files": (ModelFile(path="one.gguf", size=1),)}, "checksum_mismatch", "tells of 3145728 bytes", id="size"
        ),
        pytest.param(
            {"files": (ModelFile(path="one.gguf", size=3 * MIB, sha256="0" * 64),)},
            "checksum_mismatch",
            "the sha256 0000",
            id="checksum",
        ),
    ],
)
async def test_what_the_hub_does_not_have(
    fake: FakeHub, downloads: HubDownloads, change: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(ModelSourceError, match=message) as raised:
        await collect(downloads, model(fake, "acme/one").model_copy(update=change))
    assert (raised.value.code, raised.value.retryable) == (code, False)


async def test_a_gated_model_asks_for_a_token(fake: FakeHub, downloads: HubDownloads) -> None:
    with pytest.raises(ModelSourceError, match="HF_TOKEN on the worker") as raised:
        await collect(downloads, model(fake, "acme/gated"))
    assert raised.value.code == "access_denied"


async def test_the_token_goes_by_the_environment_only(fake: FakeHub, cache: Path, environment: dict[str, str]) -> None:
    downloads = HubDownloads(cache, environment={**environment, "HF_TOKEN": TOKEN})
    fake.faults.pause_at = MIB
    with structlog.testing.capture_logs() as logs:
        async with aclosing(downloads.fetch(model(fake, "acme/gated"))) as progress:
            async for step in progress:
                if step.done >= MIB and not fake.faults.go.is_set():
                    (process,) = processes()
                    assert TOKEN not in " ".join(process.cmdline())
                    assert process.environ()["HF_TOKEN"] == TOKEN
                    fake.faults.go.set()
    assert step.done == 3 * MIB
    assert TOKEN not in repr(logs)
    assert {request.authorized for request in fake.content_requests()} == {False}


async def test_a_program_that_breaks_is_told_without_the_token(
    fake: FakeHub, cache: Path, environment: dict[str, str]
) -> None:
    # The library fails to read this setting while it is imported, and its traceback repeats the value.
    broken = {**environment, "HF_TOKEN": TOKEN, "HF_HUB_DOWNLOAD_TIMEOUT": TOKEN}
    with structlog.testing.capture_logs() as logs, pytest.raises(ModelSourceError) as raised:
        await collect(HubDownloads(cache, environment=broken), model(fake, "acme/one"))
    assert (raised.value.code, raised.value.retryable) == ("download_failed", True)
    assert "exit code 1" in str(raised.value)
    assert "invalid literal" in str(raised.value)
    assert TOKEN not in str(raised.value) + repr(logs)


async def test_a_silent_program_is_ended(fake: FakeHub, cache: Path, environment: dict[str, str]) -> None:
    downloads = HubDownloads(cache, environment=environment, silence_seconds=0)
    with pytest.raises(ModelSourceError, match="no sign of life") as raised:
        await collect(downloads, model(fake, "acme/one"))
    assert (raised.value.code, raised.value.retryable) == ("download_failed", True)
    assert processes() == []
