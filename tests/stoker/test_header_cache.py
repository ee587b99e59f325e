"""Headers that are kept: whole or not at all, in bounds, and never in the way."""

import json
import os
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.gguf import Header, MetadataArray, TensorInfo
from stoker.gguf_header import READER_VERSION, read_header
from stoker.header_cache import CachedHeader, HeaderCache
from tests.stoker.test_gguf_header import ARRAY, F32, STRING, UINT32, RawFile, array, key, tensor, text


def entry(name: str = "llama", *, tensors: int = 2, etag: str = "") -> CachedHeader:
    header = Header(
        version=3,
        metadata={
            "general.architecture": name,
            "whole": 7,
            "large": 2**64 - 1,
            "part": 0.1,
            "endless": float("inf"),
            "yes": True,
            "words": MetadataArray(length=150_000),
            "numbers": MetadataArray(length=3, items=(1, 2.5, False)),
        },
        tensors=tuple(TensorInfo(f"blk.{n}.x", (32, 2), "Q4_0", 64 * n, 36) for n in range(tensors)),
        data_offset=4096,
    )
    return CachedHeader(header, size=123_456, etag=etag)


def test_what_was_put_is_there_for_others_too(tmp_path: Path) -> None:
    kept = entry(etag='"abc"')
    HeaderCache(tmp_path).put("a", kept)
    found = HeaderCache(tmp_path).get("a")
    assert found == kept
    assert found is not None
    assert {name: type(value) for name, value in found.header.metadata.items()} == {
        name: type(value) for name, value in kept.header.metadata.items()
    }
    assert HeaderCache(tmp_path).get("b") is None


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.integers(-(2**63), 2**64 - 1),
            st.floats(allow_nan=False),
            st.booleans(),
            st.text(),
            st.builds(MetadataArray, length=st.integers(0), items=st.tuples(st.integers(), st.floats(allow_nan=False))),
        ),
        max_size=5,
    )
)
def test_every_value_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    kept = CachedHeader(Header(version=3, metadata=metadata, tensors=(), data_offset=0), size=1)
    HeaderCache(folder).put("a", kept)
    assert HeaderCache(folder).get("a") == kept


def test_without_a_folder_it_is_in_memory_only() -> None:
    cache = HeaderCache()
    cache.put("a", entry())
    assert cache.get("a") == entry()


def test_a_new_one_replaces_the_old(tmp_path: Path) -> None:
    cache = HeaderCache(tmp_path)
    cache.put("a", entry("old"))
    cache.put("a", entry("new"))
    assert cache.get("a") == HeaderCache(tmp_path).get("a") == entry("new")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"key":"a"', '"key":"b"'),
        lambda text: text.replace('"tensors":[[', '"tensors":[['.replace("[[", "[[null,")),
        lambda text: text.replace('"whole":7', '"whole":null'),
        lambda text: text.replace('"metadata":{', '"metadata":[{').replace('},"tensors"', '}],"tensors"'),
        lambda text: text.replace('"version":3', '"version":"three"'),
    ],
)
def test_what_was_spoilt_is_as_if_it_were_not_there(tmp_path: Path, spoil: Any) -> None:
    HeaderCache(tmp_path).put("a", entry())
    (path,) = files(tmp_path)
    path.write_text(spoil(path.read_text()))
    cache = HeaderCache(tmp_path)
    assert cache.get("a") is None
    cache.put("a", entry())
    assert HeaderCache(tmp_path).get("a") == entry()


def test_memory_is_bounded_by_what_was_longest_unused() -> None:
    size = len(json.dumps(list(entry(tensors=1000).header.tensors)))
    cache = HeaderCache(memory_limit=3 * size)
    for name in "abc":
        cache.put(name, entry(name, tensors=900))
    assert cache.get("a") == entry("a", tensors=900)
    cache.put("d", entry("d", tensors=900))
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]


def test_the_disk_is_bounded_by_what_was_longest_unused(tmp_path: Path) -> None:
    cache = HeaderCache(tmp_path, memory_limit=0, disk_limit=400_000)
    for number, name in enumerate("abcd"):
        cache.put(name, entry(name, tensors=3000))
        (newest,) = (path for path in files(tmp_path) if json.loads(path.read_text())["key"] == name)
        os.utime(newest, (1000 + number, 1000 + number))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 400_000
    kept = [name for name in "abcd" if HeaderCache(tmp_path).get(name) is not None]
    assert kept == list("abcd")[-len(kept) :]
    assert 1 < len(kept) < 4
    oldest = kept[0]
    for number, name in enumerate(kept):
        os.utime(next(p for p in files(tmp_path) if json.loads(p.read_text())["key"] == name), (number, number))
    assert cache.get(oldest) is not None, "and looking at it makes it the last to go"
    cache.put("e", entry("e", tensors=3000))
    assert HeaderCache(tmp_path).get(oldest) is not None


def test_an_entry_that_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.header_cache.LARGEST_ENTRY", 1000)
    cache = HeaderCache(tmp_path)
    cache.put("a", entry(tensors=100))
    assert cache.get("a") is None
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_used_makes_no_difference(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = HeaderCache(tmp_path / "file" / "below")
    cache.put("a", entry())
    assert cache.get("a") == entry()
    assert HeaderCache(tmp_path / "file" / "below").get("a") is None


def test_it_is_nobody_elses_business(tmp_path: Path) -> None:
    HeaderCache(tmp_path / "data" / "cache").put("a", entry())
    (path,) = files(tmp_path)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]


def test_many_writers_and_readers_see_whole_entries(tmp_path: Path) -> None:
    def work(number: int) -> None:
        cache = HeaderCache(tmp_path, memory_limit=0, disk_limit=300_000)
        for turn in range(10):
            cache.put("a", entry(str(turn), tensors=500))
            cache.put(f"{number}", entry(tensors=500))
            found = cache.get("a")
            assert found is None or len(found.header.tensors) == 500

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert not [path for path in files(tmp_path) if path.suffix != ".json"], "nothing half-written stays"


def test_what_is_kept_of_a_header_is_that_of_this_version(tmp_path: Path) -> None:
    """Fails when the reader keeps something else of a header than before: then READER_VERSION must be raised."""
    raw = RawFile(
        keys=[
            key("general.architecture", STRING, text("llama")),
            key("llama.block_count", UINT32, struct.pack("<I", 1)),
            key("numbers", ARRAY, array(5, 3, struct.pack("<3i", 1, 2, 3))),
            key("words", ARRAY, array(STRING, 2, text("one") + text("two"))),
        ],
        tensors=[tensor("token_embd.weight", (4, 2), F32)],
        data=bytes(32),
    )
    source = raw.source()
    HeaderCache(tmp_path).put("a", CachedHeader(read_header(source), source.size))
    (path,) = files(tmp_path)
    assert (READER_VERSION, json.loads(path.read_text())) == (
        1,
        {
            "key": "a",
            "size": source.size,
            "etag": "",
            "version": 3,
            "data_offset": source.size - 32,
            "metadata": {
                "general.architecture": "llama",
                "llama.block_count": 1,
                "numbers": {"length": 3, "items": [1, 2, 3]},
                "words": {"length": 2, "items": []},
            },
            "tensors": [["token_embd.weight", [4, 2], "F32", 0, 32]],
        },
    )
