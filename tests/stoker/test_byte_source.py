"""Files as byte sources."""

import os
from pathlib import Path

import pytest

from stoker.byte_source import FileSource


def test_reads_at_any_offset_and_stops_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with FileSource(path) as source:
        assert source.size == 10
        assert source.read(3, 4) == b"3456"
        assert source.read(8, 100) == b"89"
        assert source.read(20, 1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        source.read(0, 1)


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match="not a regular file"):
            FileSource(path)
    with pytest.raises(FileNotFoundError):
        FileSource(tmp_path / "missing")
