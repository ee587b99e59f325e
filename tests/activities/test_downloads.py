"""Reading and fetching model files, in Temporal's own environment for activities."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import heartbeats
from activities.downloads import DownloadActivities
from activities.ports import DownloadProgress, EvictionRefusedError, ModelSourceError
from activities.types import EvictInput, EvictResult, FetchInput, FetchResult, InspectInput, InspectResult
from stoker.domain.files import Peer
from stoker.domain.gguf import ModelProfile
from stoker.domain.models import ModelFiles, ModelSource
from stoker.domain.statuses import FileProgress, Progress
from tests.builders import make_files, make_profile

pytestmark = pytest.mark.anyio

SOURCE = ModelSource.parse("file:/models/m.gguf")
FILES = make_files(SOURCE)
PEER = Peer(worker="w2", address="10.0.0.2", mesh_port=8411)


class Store:
    """A host's files, as a test says: `steps` are done bytes of 100, an error, or a wait for ever."""

    def __init__(self, *steps: int | DownloadProgress | Exception | None) -> None:
        self.steps = steps
        self.error: Exception | None = None
        self.closed = asyncio.Event()
        self.waits = asyncio.Event()

    async def inspect(self, path: str) -> tuple[ModelFiles, ModelProfile]:
        """Reads a header."""
        assert path == SOURCE.path
        if self.error is not None:
            raise self.error
        return FILES, make_profile()

    async def fetch(
        self, files: ModelFiles, *, user: str = "", peers: Sequence[Peer] = (), keep: Sequence[str] = ()
    ) -> AsyncGenerator[DownloadProgress, None]:
        """Makes files present."""
        assert (files, user, tuple(peers), tuple(keep)) == (FILES, "llama-0", (PEER,), ("hf:a/b@c/d.gguf",))
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    self.waits.set()
                    await asyncio.Event().wait()
                else:
                    yield step if isinstance(step, DownloadProgress) else DownloadProgress(done=step, total=100)
        finally:
            self.closed.set()

    async def evict(self, model: str, *, force: bool = False) -> int:
        """Takes a model away."""
        assert (model, force) == ("hf:a/b@c/d.gguf", True)
        if self.error is not None:
            raise self.error
        return 77

    def local_path(self, files: ModelFiles) -> str:
        """Where the first shard is."""
        return "/models/m.gguf"


class Attempt:
    """One attempt of fetch_model, with what it showed on its way."""

    def __init__(self, store: Store) -> None:
        self.environment = ActivityEnvironment()
        self.beats: list[Any] = []
        self.environment.on_heartbeat = lambda *details: self.beats.append(details[0])
        self.shown: list[tuple[str, Progress]] = []
        self._activities = DownloadActivities(store, lambda name, progress: self.shown.append((name, progress)))

    async def run(self) -> FetchResult:
        """To its end."""
        request = FetchInput(instance_id="llama-0", files=FILES, peers=(PEER,), keep=("hf:a/b@c/d.gguf",))
        result: FetchResult = await self.environment.run(self._activities.fetch_model, request)
        return result


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.001)


# --- fetch_model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "fetched"),
    [
        ([0, 40, 100], 100),
        ([60, 100], 40),  # what an earlier attempt left on disk came over the network once
        ([100], 0),  # all was there
        ([], 0),
        ([40, 0, 100], 60),
        ([100, 40], 0),  # a damaged file was thrown away
    ],
)
async def test_the_path_and_what_came_over_the_network(steps: list[int], fetched: int) -> None:
    attempt = Attempt(Store(*steps))
    assert await attempt.run() == FetchResult(model_path="/models/m.gguf", fetched=fetched)
    assert attempt.shown == [("llama-0", Progress(done=done, total=100)) for done in steps]


async def test_each_file_is_shown_and_the_result_says_where_it_came_from_and_what_had_to_go() -> None:
    files = (FileProgress(path="a.gguf", done=60, total=60), FileProgress(path="b.gguf", done=40, total=40))
    last = DownloadProgress(done=100, total=100, files=files, from_peers=70, evicted=("hf:x/y@z/w.gguf",))
    attempt = Attempt(Store(0, last))
    assert await attempt.run() == FetchResult(
        model_path="/models/m.gguf", fetched=100, from_peers=70, evicted=("hf:x/y@z/w.gguf",)
    )
    assert attempt.shown[-1] == ("llama-0", Progress(done=100, total=100, files=files))


async def test_heartbeats_carry_the_progress() -> None:
    store = Store(0, 40, None)
    attempt = Attempt(store)
    running = asyncio.create_task(attempt.run())
    async with asyncio.timeout(10):
        await store.waits.wait()
        while not attempt.beats or attempt.beats[-1] != DownloadProgress(done=40, total=100):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    attempt.environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(
    "details",
    [
        ActivityCancellationDetails(cancel_requested=True),
        ActivityCancellationDetails(worker_shutdown=True),
        ActivityCancellationDetails(timed_out=True, not_found=True),
    ],
)
async def test_whoever_cancels_stops_the_download_at_once(details: ActivityCancellationDetails) -> None:
    store = Store(10, None)
    attempt = Attempt(store)
    running = asyncio.create_task(attempt.run())
    await store.waits.wait()
    attempt.environment.cancel(details)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.closed.is_set()
    beats = len(attempt.beats)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert len(attempt.beats) == beats, "nothing beats any more"


@pytest.mark.parametrize("retryable", [True, False])
async def test_a_download_that_fails_says_whether_to_try_again(retryable: bool) -> None:
    store = Store(10, ModelSourceError("hub_unavailable", "cut off", retryable=retryable))
    with pytest.raises(ApplicationError) as raised:
        await Attempt(store).run()
    assert (raised.value.type, raised.value.non_retryable) == ("hub_unavailable", not retryable)
    assert store.closed.is_set()


# --- inspect_file -----------------------------------------------------------------------------------------------------


async def inspected(store: Store) -> InspectResult:
    """What the host says of the file."""
    activities = DownloadActivities(store, lambda *_: None)
    result: InspectResult = await ActivityEnvironment().run(activities.inspect_file, InspectInput(source=SOURCE))
    return result


async def test_a_file_that_is_there_is_described() -> None:
    model = (await inspected(Store())).model
    assert model is not None
    assert (model.files, model.profile) == (FILES, make_profile())


async def test_a_file_that_is_not_here_may_be_elsewhere() -> None:
    store = Store()
    store.error = ModelSourceError("file_not_found", "no such file", retryable=False)
    assert await inspected(store) == InspectResult()


@pytest.mark.parametrize("code", ["not_gguf", "truncated_gguf", "path_not_allowed"])
async def test_a_file_that_is_no_model_is_refused(code: str) -> None:
    store = Store()
    store.error = ModelSourceError(code, "no model", retryable=False)
    with pytest.raises(ApplicationError) as raised:
        await inspected(store)
    assert (raised.value.type, raised.value.message, raised.value.non_retryable) == (code, "no model", True)


# --- evict_model ------------------------------------------------------------------------------------------------------


async def evicted(store: Store) -> EvictResult:
    """What the host says of a model that is to go."""
    activities = DownloadActivities(store, lambda *_: None)
    order = EvictInput(model="hf:a/b@c/d.gguf", force=True)
    result: EvictResult = await ActivityEnvironment().run(activities.evict_model, order)
    return result


async def test_what_went_says_how_much_is_free() -> None:
    assert await evicted(Store()) == EvictResult(freed=77)


@pytest.mark.parametrize(
    ("error", "code", "final"),
    [
        (EvictionRefusedError("file_in_use", "it is used"), "file_in_use", True),
        (EvictionRefusedError("not_found", "it is not here"), "not_found", True),
        (ModelSourceError("disk_error", "it cannot be removed"), "disk_error", True),
    ],
)
async def test_a_refusal_comes_back_in_its_own_words(error: Exception, code: str, final: bool) -> None:
    store = Store()
    store.error = error
    with pytest.raises(ApplicationError) as raised:
        await evicted(store)
    assert (raised.value.type, raised.value.message, raised.value.non_retryable) == (code, str(error), final)
