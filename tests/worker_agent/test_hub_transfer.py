"""What goes wrong on the way and on the disk, in this process."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from stoker.domain.models import ModelFile
from stoker.domain.units import KIB, MIB
from stoker.model_source_error import ModelSourceError
from tests.fakes.hub import FakeHub
from worker_agent import hub_transfer
from worker_agent.hub_cache import CachedRepo
from worker_agent.hub_transfer import CONNECTIONS, REFETCHES, DownloadRequest, ModelTransfer
from worker_agent.partial_file import PartialFile
from worker_agent.transfer_state import TransferState

CONTENT = hashlib.shake_128(b"content").digest(MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = ModelFile(path="one.gguf", size=MIB, sha256=SHA256)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with acme/one, where this process looks for the hub."""
    (tmp_path / "hub/acme/one").mkdir(parents=True)
    (tmp_path / "hub/acme/one/one.gguf").write_bytes(CONTENT)
    with FakeHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_transfer, "RETRY_PAUSES", (0.0, 0.0))
        yield hub


@pytest.fixture
def request_(fake: FakeHub, tmp_path: Path) -> DownloadRequest:
    return DownloadRequest(
        cache_dir=tmp_path / "cache", repo="acme/one", revision=fake.commit("acme/one"), files=(FILE,), lock_patience=0
    )


@pytest.fixture
def cached(request_: DownloadRequest) -> CachedRepo:
    return CachedRepo(request_.cache_dir, request_.repo, request_.revision)


def run(request: DownloadRequest) -> list[int]:
    """Transfers; returns what was reported: the bytes on disk of all files together."""
    reports: list[int] = []
    state = TransferState(lambda: reports.append(state.done))
    ModelTransfer(request, state).run()
    return reports


def test_progress_is_what_is_on_disk_of_all_files(request_: DownloadRequest, cached: CachedRepo, fake: FakeHub) -> None:
    (fake.root / "acme/one/two.gguf").write_bytes(b"two")
    two = ModelFile(path="two.gguf", size=3, sha256=hashlib.sha256(b"two").hexdigest())
    request = request_.model_copy(update={"revision": fake.commit("acme/one"), "files": (FILE, two)})
    cached.blobs.mkdir(parents=True)
    cached.blob(two.sha256).write_bytes(b"two")
    cached.partial(SHA256).write_bytes(CONTENT[: MIB // 2])
    reports = run(request)
    assert reports[0] == MIB // 2 + 3
    assert reports[-1] == MIB + 3
    assert reports == sorted(reports)


def test_a_hub_that_stays_away_is_given_up(
    request_: DownloadRequest, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.faults.unavailable = 100
    with pytest.raises(ModelSourceError, match="503") as raised:
        run(request_)
    assert (raised.value.code, raised.value.retryable) == ("hub_unavailable", True)
    assert len(fake.requests) == 3  # once, and again after each pause


def test_attempts_that_bring_something_are_not_counted(request_: DownloadRequest, fake: FakeHub) -> None:
    fake.faults.cut_after, fake.faults.cuts = 64 * KIB, 10
    assert run(request_)[-1] == MIB
    assert len(fake.content_requests()) == 11


def test_offline_only_the_cache_counts(request_: DownloadRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelSourceError, match="HF_HUB_OFFLINE is set on the worker") as raised:
        run(request_)
    assert (raised.value.code, raised.value.retryable) == ("hub_unavailable", False)


def test_a_lock_whose_holder_gets_nothing_does_not_block(request_: DownloadRequest, cached: CachedRepo) -> None:
    cached.lock(SHA256).parent.mkdir(parents=True)
    with WeakFileLock(cached.lock(SHA256)):
        run(request_)
    assert cached.pointer("one.gguf").read_bytes() == CONTENT
    assert list(cached.blobs.glob("*.incomplete")) == []


def test_the_lock_of_one_who_was_killed_is_free(request_: DownloadRequest, cached: CachedRepo, fake: FakeHub) -> None:
    lock = cached.lock(SHA256)
    lock.parent.mkdir(parents=True)
    holds = f"""
from huggingface_hub.utils import WeakFileLock
with WeakFileLock({str(lock)!r}):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert lock.exists()
    run(request_.model_copy(update={"lock_patience": 3600}))  # would be waited for, were it held
    assert cached.pointer("one.gguf").read_bytes() == CONTENT
    assert fake.content_sent == MIB


def test_the_files_of_a_model_come_at_the_same_time_and_no_more_than_so_many(
    request_: DownloadRequest, fake: FakeHub
) -> None:
    contents = [hashlib.shake_128(bytes([number])).digest(256 * KIB) for number in range(CONNECTIONS + 2)]
    files = []
    for number, content in enumerate(contents):
        (fake.root / f"acme/one/{number}.gguf").write_bytes(content)
        files.append(ModelFile(path=f"{number}.gguf", size=256 * KIB, sha256=hashlib.sha256(content).hexdigest()))
    request = request_.model_copy(update={"revision": fake.commit("acme/one"), "files": tuple(files)})
    fake.faults.pause_at = 128 * KIB
    begun: list[int] = []

    def watch(state: TransferState) -> None:
        if state.done == CONNECTIONS * 128 * KIB:  # all that may come has come, and stands
            begun.append(len(fake.content_requests()))
            fake.faults.go.set()

    state = TransferState(lambda: watch(state))
    ModelTransfer(request, state).run()
    assert begun[0] == CONNECTIONS
    assert state.files() == {file.path: file.size for file in files}
    assert set(state.verified_files()) == {file.path for file in files}


def test_one_that_comes_wrong_is_fetched_again_so_many_times(
    request_: DownloadRequest, cached: CachedRepo, fake: FakeHub
) -> None:
    fake.faults.corrupt_answers = REFETCHES
    state = TransferState()
    ModelTransfer(request_, state).run()
    assert cached.pointer("one.gguf").read_bytes() == CONTENT
    assert [request.range for request in fake.content_requests()] == ["bytes=0-"] * (1 + REFETCHES)
    assert len(state.take_remarks()) == REFETCHES
    cached.drop("one.gguf")
    fake.forget()
    fake.faults.corrupt_answers = 1 + REFETCHES
    with pytest.raises(
        ModelSourceError, match=f"{1 + REFETCHES} times, and should be {MIB} bytes with {SHA256}"
    ) as raised:
        run(request_)
    assert (raised.value.code, raised.value.retryable) == ("checksum_mismatch", False)
    assert list(cached.blobs.iterdir()) == []


def test_what_lies_there_is_read_once_and_fetched_again_when_it_is_damaged(
    request_: DownloadRequest, cached: CachedRepo, fake: FakeHub
) -> None:
    run(request_)
    cached.blob(SHA256).write_bytes(bytes(MIB))
    fake.forget()
    run(request_.model_copy(update={"verified": ("one.gguf",)}))
    assert fake.requests == [], "it was said to be right"
    state = TransferState()
    ModelTransfer(request_, state).run()
    assert state.take_remarks() == ["one.gguf of acme/one is damaged on the disk, and is fetched again"]
    assert cached.pointer("one.gguf").read_bytes() == CONTENT
    fake.forget()
    run(request_)
    assert fake.requests == []


def test_one_file_that_cannot_be_had_ends_the_others(request_: DownloadRequest, fake: FakeHub) -> None:
    missing = ModelFile(path="none.gguf", size=3)
    fake.faults.pause_at = 0

    def release() -> None:
        fake.faults.paused.wait(60)
        fake.faults.go.set()

    releasing = threading.Thread(target=release)
    releasing.start()
    with pytest.raises(ModelSourceError, match="no longer has the file") as raised:
        run(request_.model_copy(update={"files": (missing, FILE)}))
    fake.faults.paused.set()  # where it had not begun
    releasing.join()
    assert raised.value.code == "file_not_found"


def test_what_another_downloader_brought_is_taken(request_: DownloadRequest, cached: CachedRepo, fake: FakeHub) -> None:
    other = WeakFileLock(cached.lock(SHA256))
    cached.lock(SHA256).parent.mkdir(parents=True)
    cached.blobs.mkdir(parents=True)
    foreign_part = cached.blobs / f"{SHA256}.0123abcd.incomplete"
    foreign_part.write_bytes(CONTENT[: MIB // 2])
    other.__enter__()
    reports: list[int] = []

    def report() -> None:
        reports.append(state.done)
        if reports == [0, MIB // 2]:  # waiting: the other one becomes ready
            foreign_part.rename(cached.blob(SHA256))
            cached.blob(SHA256).write_bytes(CONTENT)
            other.__exit__(None, None, None)

    state = TransferState(report)
    ModelTransfer(request_.model_copy(update={"lock_patience": 60}), state).run()

    assert reports == [0, MIB // 2, MIB, MIB, MIB], "once more when it is read: who brought it may not have checked it"
    assert fake.content_sent == 0
    assert cached.pointer("one.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("number", "code", "retryable", "message", "kept"),
    [
        (errno.ENOSPC, "disk_full", True, "is full", False),
        (errno.EDQUOT, "disk_full", True, "is full", False),
        (errno.EIO, "disk_error", True, "Input/output error", True),
        (errno.EROFS, "disk_error", False, "Read-only file system", True),
    ],
)
def test_what_the_disk_refuses(
    request_: DownloadRequest,
    cached: CachedRepo,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: str,
    retryable: bool,
    message: str,
    kept: bool,
) -> None:
    append = PartialFile.append

    def refuse(part: PartialFile, block: bytes) -> None:
        if part.size >= MIB // 2:
            raise OSError(number, os.strerror(number))
        append(part, block)

    monkeypatch.setattr(PartialFile, "append", refuse)
    with pytest.raises(ModelSourceError, match=message) as raised:
        run(request_)
    assert (raised.value.code, raised.value.retryable) == (code, retryable)
    assert cached.partial(SHA256).exists() is kept


def test_the_hub_library_has_nothing_left_to_fetch(
    request_: DownloadRequest, cached: CachedRepo, fake: FakeHub
) -> None:
    run(request_)
    fake.forget()
    found = file_download.hf_hub_download(
        request_.repo, "one.gguf", revision=request_.revision, cache_dir=request_.cache_dir
    )
    assert found == str(cached.pointer("one.gguf"))
    assert fake.requests == []
