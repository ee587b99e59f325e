"""Counters that outlive their process, and who may take them over."""

import errno
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from api.usage.tally import DROPPED, MADE, REFUSED, Tally


def _count_for_ever(folder: Path, pipe: Connection) -> None:
    tally = Tally.new(folder)
    tally.numbers[MADE] = 7
    tally.numbers[REFUSED], tally.numbers[DROPPED] = 1, 2
    pipe.send(tally.recorder)
    pipe.recv()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Not made yet."""
    return tmp_path / "usage"


@pytest.fixture
def left(folder: Path) -> Iterator[str]:
    """What a killed process left; its recorder."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_count_for_ever, args=(folder, theirs), daemon=True)
    process.start()
    recorder: str = ours.recv()
    assert list(Tally.left(folder)) == [], "it lives"
    process.kill()
    process.join()
    yield recorder
    ours.close()
    theirs.close()


def test_what_a_killed_process_counted_is_there(folder: Path, left: str) -> None:
    (tally,) = Tally.left(folder)
    assert (tally.recorder, list(tally.numbers), tally.to_be_written) == (left, [7, 1, 2], 4)
    assert list(Tally.left(folder)) == [], "now it is ours"
    tally.close()
    (again,) = Tally.left(folder)
    assert list(again.numbers) == [7, 1, 2]
    again.remove()
    assert list(folder.iterdir()) == []


def test_one_that_was_taken_over_meanwhile_is_nobodys(folder: Path, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock = fcntl.flock

    def removed_first(file: int, operation: int) -> None:
        (folder / f"{left}.tally").unlink()  # by one who had the lock between our opening and our locking
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    assert list(Tally.left(folder)) == []


def test_a_file_that_is_none_is_let_be(folder: Path) -> None:
    folder.mkdir()
    (folder / "odd.tally").write_bytes(b"x")
    assert list(Tally.left(folder)) == []
    assert list(Tally.left(folder / "nowhere")) == []


def test_a_full_disk_is_an_error_at_once_and_not_the_end_of_the_process_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped page for which there is no room is a SIGBUS when it is written: with the first request."""

    def full(file: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("api.usage.tally.os.pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            Tally.new(folder)
    assert list(folder.iterdir()) == []
    Tally.new(folder).remove()
