"""What an agent remembers of models: over its restart, and when the file is damaged."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stoker.domain.models import ModelFile, ModelFiles
from tests.builders import make_files
from worker_agent.file_records import MOST_USERS, FileRecords


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


FILES: ModelFiles = make_files(files=(ModelFile(path="a.gguf", size=1), ModelFile(path="b.gguf", size=2)))


def test_who_wanted_what_and_what_was_fetched_is_known_to_the_next_agent(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "deep" / "files.json"
    first = FileRecords(path, clock=clock)
    first.wanted(FILES, user="llama-a", missing=["b.gguf"])
    clock.now = 2000.0
    first.wanted(FILES, user="llama-b", missing=[])
    first.wanted(FILES, user="llama-a", missing=["a.gguf"])
    assert path.stat().st_mode & 0o777 == 0o600
    record = FileRecords(path, clock=clock).models()[FILES.key]
    assert (record.fetched, record.used_at) == (("a.gguf", "b.gguf"), 2000.0)
    assert record.users == ("llama-b", "llama-a")
    assert (record.owns(FILES.files[0]), record.owns(ModelFile(path="c.gguf", size=1))) == (True, False)


def test_users_are_not_gathered_for_ever(clock: Clock) -> None:
    records = FileRecords(clock=clock)
    for number in range(MOST_USERS + 3):
        records.wanted(FILES, user=f"llama-{number}", missing=[])
    assert records.models()[FILES.key].users == tuple(f"llama-{number}" for number in range(3, MOST_USERS + 3))


def test_use_and_forgetting(clock: Clock) -> None:
    records = FileRecords(clock=clock)
    records.used(FILES.key)  # unknown: fine
    records.wanted(FILES, user="", missing=[])
    clock.now = 3000.0
    records.used(FILES.key)
    assert (records.models()[FILES.key].used_at, records.models()[FILES.key].users) == (3000.0, ())
    records.forget(FILES.key)
    records.forget(FILES.key)
    assert records.models() == {}


def test_what_was_verified_holds_until_the_file_changes(tmp_path: Path) -> None:
    path, file = tmp_path / "files.json", tmp_path / "a.gguf"
    records = FileRecords(path)
    records.verified(file)
    assert not records.is_verified(file), "it is not there"
    file.write_bytes(b"abc")
    assert not records.is_verified(file)
    records.verified(file)
    assert FileRecords(path).is_verified(file)
    os.utime(file, ns=(1, 1))
    assert not FileRecords(path).is_verified(file)
    records.verified(file)
    file.write_bytes(b"abcd")
    assert not records.is_verified(file)
    file.unlink()
    (tmp_path / "b.gguf").write_bytes(b"x")
    records.verified(tmp_path / "b.gguf")
    assert str(file) not in path.read_text(), "what is gone is forgotten with the next write"


@pytest.mark.parametrize("content", ["", "{", '{"models": 3}'])
def test_a_damaged_file_is_told_of_and_begun_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "files.json"
    path.write_text(content)
    with capture_logs() as logs:
        records = FileRecords(path)
    assert [entry["event"] for entry in logs] == ["file_records_not_read"]
    records.wanted(FILES, user="llama-a", missing=[])
    assert list(FileRecords(path).models()) == [FILES.key]


def test_a_disk_that_refuses_is_told_of_and_what_is_known_holds(tmp_path: Path) -> None:
    (tmp_path / "files.json").mkdir()
    with capture_logs() as logs:
        records = FileRecords(tmp_path / "files.json")
        records.wanted(FILES, user="llama-a", missing=[])
    assert [entry["event"] for entry in logs] == ["file_records_not_read", "file_records_not_written"]
    assert list(records.models()) == [FILES.key]
