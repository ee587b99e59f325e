"""Small private files, also where disks are full and several write at once."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.private_files import make_private, write_private


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [write_private, make_private])
def test_what_is_written_is_for_its_user_alone(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    before = os.umask(0)
    try:
        write(path, "größer\n")
    finally:
        os.umask(before)
    assert path.read_bytes() == "größer\n".encode()
    assert [mode(one) for one in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]
    assert names(path.parent) == ["file"]


def test_what_was_there_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("much longer than what comes")
    path.chmod(0o644)
    write_private(path, "new", synced=True)
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_what_was_made_first_stays(tmp_path: Path) -> None:
    make_private(tmp_path / "file", "first")
    make_private(tmp_path / "file", "second")
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("another's")
    (tmp_path / "file").symlink_to(target)
    write_private(tmp_path / "file", "ours")
    assert (tmp_path / "file").read_text() == "ours"
    assert target.read_text() == "another's"


def test_a_disk_that_takes_nothing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_private(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, "new", synced=True)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_what_cannot_be_replaced_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_private(tmp_path / "file", "new")
    assert names(tmp_path) == ["file"]


def test_of_many_that_write_at_once_one_wins_whole(tmp_path: Path) -> None:
    path, texts, failed = tmp_path / "file", [str(number) * 50_000 for number in range(8)], []

    def write(text: str) -> None:
        try:
            for _ in range(10):
                write_private(path, text)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert path.read_text() in texts
    assert names(tmp_path) == ["file"]
