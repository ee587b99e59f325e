"""A part of a file: what is there is kept, and its checksum is that of all of it."""

import hashlib
from pathlib import Path

import pytest

from stoker.domain.units import MIB
from worker_agent.partial_file import PartialFile, read_sha256


@pytest.mark.parametrize("before", [b"", b"abc", bytes(3 * MIB)])
def test_appending_goes_on_from_what_is_there(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(before)
    reads: list[int] = []
    with PartialFile(path, on_read=reads.append) as part:
        assert part.size == len(before)
        part.append(b"def")
        part.append(b"ghi")
        part.sync()
        assert path.read_bytes() == before + b"defghi"
        assert part.size == len(before) + 6
        assert part.sha256 == hashlib.sha256(before + b"defghi").hexdigest()
    assert reads == [len(before)] * -(-len(before) // MIB)


def test_a_new_file_and_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with PartialFile(path, on_read=lambda _: None) as part:
        part.append(b"wrong")
        part.restart()
        part.append(b"right!")
        assert (part.size, part.sha256) == (6, hashlib.sha256(b"right!").hexdigest())
    assert path.read_bytes() == b"right!"


def test_what_was_appended_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with PartialFile(path, on_read=lambda _: None) as part:
        part.append(b"a")
        assert path.read_bytes() == b"a", "should this process be killed now, it is there"


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3 * MIB + 1)])
def test_the_checksum_of_a_file(tmp_path: Path, content: bytes) -> None:
    path, reads = tmp_path / "file", []
    path.write_bytes(content)
    path.chmod(0o400)  # it is only read
    assert read_sha256(path, on_read=lambda: reads.append(1)) == hashlib.sha256(content).hexdigest()
    assert len(reads) == -(-len(content) // MIB)
