"""Batches on disk: what was kept comes back in its order, and what was half-written does not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.usage.spool import Spool, SpoolFullError
from stoker.storage.usage_writing import Batch
from tests.api.usage.records import record


def batch(number: int, size: int = 3) -> Batch:
    """A batch of records, all different."""
    return Batch(number, [record(1000 * number + position) for position in range(size)])


def test_batches_come_back_as_they_were_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10**6)
    batches = [batch(number) for number in (1, 2, 5)]
    for one in batches:
        spool.append(one)
    assert spool.records == 9
    assert spool.first(1) == batches[:1], "one, however large"
    assert spool.first(6) == batches[:2]
    assert spool.first(100) == batches
    spool.drop_through(2)
    assert spool.first(100) == batches[2:]
    assert spool.records == 3
    spool.close()
    again = Spool(tmp_path / "spool", 10**6)
    assert again.first(100) == batches, "what was dropped is known by the database, not here"
    again.drop_through(5)
    assert (again.first(100), again.records, (tmp_path / "spool").stat().st_size) == ([], 0, 0)
    again.append(batch(6))
    assert ([one.number for one in again.first(100)], again.records) == ([6], 3)
    again.remove()
    assert not (tmp_path / "spool").exists()


def test_nothing_is_made_until_something_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10**6)
    assert spool.first(10) == []
    spool.drop_through(10)
    spool.remove()
    assert list(tmp_path.iterdir()) == []


@given(cut=st.integers(1, 400), flip=st.booleans())
def test_what_a_crash_left_half_written_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: bool
) -> None:
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool = Spool(path, 10**6)
    spool.append(batch(1))
    whole = path.stat().st_size
    spool.append(batch(2))
    spool.close()
    size = path.stat().st_size
    at = max(whole, size - cut)
    with path.open("r+b") as file:
        if flip:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
        else:
            file.truncate(at)
    again = Spool(path, 10**6)
    kept = again.first(100)
    assert [one.number for one in kept] == [1]
    again.append(batch(3))
    assert [one.number for one in again.first(100)] == [1, 3]
    again.remove()


def test_a_full_one_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 300)
    spool.append(batch(1))
    with pytest.raises(SpoolFullError, match="300 bytes are the most"):
        spool.append(batch(2, size=200))
    assert [one.number for one in spool.first(100)] == [1]
    spool.drop_through(1)
    spool.append(batch(3))
    assert [one.number for one in spool.first(100)] == [3]
    spool.remove()


def test_a_disk_that_is_full_half_way_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool", 10**6)
    spool.append(batch(1))
    write = os.pwrite

    def half(file: int, data: bytes, at: int) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2], at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", half)
        with pytest.raises(OSError, match="No space left"):
            spool.append(batch(2))
    assert [one.number for one in spool.first(100)] == [1]
    spool.append(batch(3))
    spool.close()
    again = Spool(tmp_path / "spool", 10**6)
    assert [one.number for one in again.first(100)] == [1, 3]
    again.remove()
