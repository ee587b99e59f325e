"""What an agent tells of the models on its disk, and what it takes away."""

from pathlib import Path

import pytest

from stoker.domain.models import ModelFile, ModelFiles, ModelSource
from stoker.domain.reports import StoredFile
from worker_agent.file_records import FileRecords
from worker_agent.hub_cache import CachedRepo
from worker_agent.stored_files import TOLD_AGAIN_SECONDS, USED_EVERY_SECONDS, StoredFiles

COMMIT, OTHER = "0123456789" * 4, "9876543210" * 4
SHARDS = tuple(ModelFile(path=f"m-0000{number}-of-00002.gguf", size=4, sha256=str(number) * 64) for number in (1, 2))


class Host:
    """A cache, what is known of it, and what runs; a test says all of it."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.now = cache, 10_000.0
        self.live: set[str] = set()
        self.coming: set[str] = set()
        self.records = FileRecords(clock=lambda: self.now)
        self.stored = StoredFiles(
            cache, self.records, live=lambda: self.live, coming=lambda: self.coming, clock=lambda: self.now
        )

    def put(self, *files: ModelFile, commit: str = COMMIT) -> ModelFiles:
        """Whole files, as a hub's tools leave them."""
        cached = CachedRepo(self.cache, "acme/tiny", commit)
        cached.blobs.mkdir(parents=True, exist_ok=True)
        for file in files:
            cached.blob(file.sha256).write_bytes(b"x" * file.size)
            cached.link(file, file.sha256)
        return ModelFiles(source=ModelSource.parse("hf:acme/tiny"), revision=commit, files=files)

    def fetched(self, *files: ModelFile, commit: str = COMMIT) -> ModelFiles:
        """The same, fetched by Stoker for llama-a."""
        model = self.put(*files, commit=commit)
        self.records.wanted(model, user="llama-a", missing=[file.path for file in files])
        return model


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "cache")


def told(host: Host) -> tuple[StoredFile, ...]:
    """As the report has it, looked up anew."""
    host.stored.look_again()
    found = host.stored.changed()
    assert found is not None
    return found


def test_what_stoker_fetched_and_what_it_found(host: Host) -> None:
    mine = host.fetched(*SHARDS)
    found = host.put(ModelFile(path="other.gguf", size=9, sha256="f" * 64))
    assert [(file.model, file.path, file.done, file.own, file.used_at) for file in told(host)] == [
        (mine.key, SHARDS[0].path, 4, True, 10_000.0),
        (mine.key, SHARDS[1].path, 4, True, 10_000.0),
        (found.key, "other.gguf", 9, False, None),
    ]


def test_a_part_is_told_with_what_has_come(host: Host) -> None:
    model = host.put(SHARDS[0]).model_copy(update={"files": SHARDS})
    host.records.wanted(model, user="llama-a", missing=[SHARDS[1].path])
    CachedRepo(host.cache, "acme/tiny", COMMIT).partial(SHARDS[1].sha256).write_bytes(b"xx")
    assert [(file.done, file.size, file.own) for file in told(host)] == [(4, 4, False), (2, 4, True)]


def test_one_that_somebody_has_deleted_is_not_told_of_unless_it_comes(host: Host) -> None:
    host.records.wanted(model := host.put().model_copy(update={"files": SHARDS}), user="", missing=[])
    assert told(host) == ()
    host.coming = {model.key}
    assert [(file.done, file.in_use) for file in told(host)] == [(0, True), (0, True)]


def test_use_is_by_a_process_or_a_download_and_by_nothing_else(host: Host) -> None:
    host.fetched(*SHARDS)
    assert not any(file.in_use for file in told(host))
    host.live = {"llama-b"}
    assert not any(file.in_use for file in told(host))
    host.live = {"llama-a"}
    assert all(file.in_use for file in told(host))


def test_only_what_changed_is_told_and_all_of_it_again_after_a_while(host: Host) -> None:
    host.fetched(*SHARDS)
    first = told(host)
    assert host.stored.changed() == first, "it was not taken yet"
    host.stored.taken(None)
    assert host.stored.changed() == first
    host.stored.taken(first)
    assert host.stored.changed() is None
    host.live = {"llama-a"}
    assert host.stored.changed() is not None, "somebody uses it now"
    host.live = set()
    assert host.stored.changed() is None
    host.stored.tell_again()
    assert host.stored.changed() == first
    host.stored.taken(first)
    host.now += TOLD_AGAIN_SECONDS
    assert host.stored.changed() == first


def test_the_last_use_moves_on_with_what_runs_but_not_with_every_report(host: Host) -> None:
    host.fetched(*SHARDS)
    host.live = {"llama-a"}
    host.now += USED_EVERY_SECONDS - 1
    assert {file.used_at for file in told(host)} == {10_000.0}
    host.now += 1
    assert {file.used_at for file in told(host)} == {10_000.0 + USED_EVERY_SECONDS}
    host.live = set()
    host.now += 10 * USED_EVERY_SECONDS
    assert {file.used_at for file in told(host)} == {10_000.0 + USED_EVERY_SECONDS}


def test_taking_away_leaves_nothing_and_says_how_much_is_free(host: Host) -> None:
    model = host.fetched(SHARDS[0])
    whole = model.model_copy(update={"files": SHARDS})
    host.records.wanted(whole, user="", missing=[SHARDS[1].path])
    cached = CachedRepo(host.cache, "acme/tiny", COMMIT)
    cached.partial(SHARDS[1].sha256).write_bytes(b"xx")
    (stored,) = host.stored.models()
    assert host.stored.remove(model.key, stored.files) == 6
    assert (host.stored.models(), host.records.models(), told(host)) == ((), {}, ())
    assert list(cached.blobs.iterdir()) == []
    assert not (cached.blobs.parent / "snapshots").exists()


def test_content_that_another_commit_shares_stays(host: Host) -> None:
    mine = host.fetched(SHARDS[0].model_copy(update={"path": "a.gguf"}))
    other = host.put(SHARDS[0].model_copy(update={"path": "a.gguf"}), commit=OTHER)
    stored = {model.model: model for model in host.stored.models()}
    assert host.stored.remove(mine.key, stored[mine.key].files) == 0
    assert [model.model for model in host.stored.models()] == [other.key]
    assert host.stored.remove(other.key, stored[other.key].files) == 4
