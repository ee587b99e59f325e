"""Models on plain web servers, against one on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.byte_source import FileSource
from stoker.domain.models import ModelFile, ModelSource
from stoker.domain.units import KIB, MIB
from stoker.gguf_header import read_profile
from stoker.header_cache import HeaderCache
from stoker.model_source_error import ModelSourceError
from stoker.url_models import UrlModels
from tests.builders import write_tiny_llama
from tests.fakes.dripping import DrippingServer
from tests.fakes.web import FakeWeb

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.gguf: 12 MiB · split-00001-of-00003.gguf …"""
    root = tmp_path_factory.mktemp("web")
    write_tiny_llama(root / "tiny.gguf", size_hint=12 * MIB)
    write_tiny_llama(root / "split.gguf", max_tensors_per_file=8)
    (root / "empty.gguf").touch()
    (root / "page.gguf").write_text("<html>Please log in</html>")
    return root


@pytest.fixture
def web(folder: Path) -> Iterator[FakeWeb]:
    with FakeWeb(folder) as running:
        yield running


def models(headers: HeaderCache | None = None, *, seconds: float = 60) -> UrlModels:
    return UrlModels(allow_private=True, headers=headers, timeout_seconds=seconds)


def source(web: FakeWeb, path: str = "tiny.gguf") -> ModelSource:
    return ModelSource.parse(f"{web.url}/{path}")


async def refusal(web: FakeWeb, path: str = "tiny.gguf", *, seconds: float = 60) -> ModelSourceError:
    with pytest.raises(ModelSourceError) as raised:
        await models(seconds=seconds).inspect(source(web, path))
    return raised.value


async def test_the_header_is_read_and_little_else(web: FakeWeb, folder: Path) -> None:
    files, profile = await models().inspect(source(web))
    path = folder / "tiny.gguf"
    assert files.files == (ModelFile(path=f"{web.url}/tiny.gguf", size=path.stat().st_size),)
    assert files.source == source(web)
    with FileSource(path) as local:
        assert profile == read_profile([local])
    assert [asked.headers["Range"] for asked in web.asked] == [f"bytes=0-{768 * KIB - 1}"]
    assert web.sent == 768 * KIB


async def test_all_shards_are_read(web: FakeWeb, folder: Path) -> None:
    files, profile = await models().inspect(source(web, "split-00001-of-00003.gguf"))
    paths = sorted(folder.glob("split-*"))
    assert [(file.path.rpartition("/")[2], file.size) for file in files.files] == [
        (path.name, path.stat().st_size) for path in paths
    ]
    assert profile.block_count == 2
    assert len(web.asked) == 3


async def test_a_shard_that_is_missing(web: FakeWeb) -> None:
    error = await refusal(web, "split-00001-of-00009.gguf")
    assert (error.code, "split-00001-of-00009.gguf" in str(error)) == ("file_not_found", True)


async def test_another_shard_than_the_first(web: FakeWeb) -> None:
    error = await refusal(web, "split-00002-of-00003.gguf")
    assert (error.code, "name the first" in str(error)) == ("file_not_found", True)
    assert web.asked == []


async def test_redirects_are_followed(web: FakeWeb) -> None:
    web.redirects = {"/latest.gguf": "/tiny.gguf?signature=secret"}
    files, _ = await models().inspect(source(web, "latest.gguf"))
    assert files.files[0].path == f"{web.url}/latest.gguf", "where it leads may hold a signature"


async def test_a_server_without_ranges(web: FakeWeb) -> None:
    web.ranges = False
    files, profile = await models().inspect(source(web))
    assert profile.block_count == 2
    assert web.sent < files.size


async def test_a_header_larger_than_the_first_block(web: FakeWeb, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "smol.gguf").symlink_to(smollm2)
    web.root = tmp_path
    for web.ranges in (True, False):
        web.asked.clear()
        files, profile = await models().inspect(source(web, "smol.gguf"))
        assert (profile.block_count, files.size) == (30, smollm2.stat().st_size)
        assert len(web.asked) == 2
        # Without ranges the server sends on until the connection is cut: what is on its way then was sent, not read.
        assert web.sent <= 3 * MIB or not web.ranges


# --- what was read before ------------------------------------------------------------------------------------------


async def test_what_is_unchanged_is_not_sent_again(web: FakeWeb, tmp_path: Path) -> None:
    first = await models(HeaderCache(tmp_path)).inspect(source(web))
    web.asked.clear()
    assert await models(HeaderCache(tmp_path)).inspect(source(web)) == first
    assert [(asked.status, asked.sent) for asked in web.asked] == [(304, 0)]


async def test_what_was_read_before_counts_towards_what_a_model_may_hold(
    web: FakeWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = source(web, "split-00001-of-00003.gguf")
    await models(HeaderCache(tmp_path)).inspect(shards)
    monkeypatch.setattr("stoker.bounded_reader.MAX_TENSORS", 16)
    with pytest.raises(ModelSourceError, match="too many tensors"):
        await models(HeaderCache(tmp_path)).inspect(shards)
    assert {asked.status for asked in web.asked[3:]} == {304}


async def test_what_was_changed_is_read_anew(web: FakeWeb, tmp_path: Path) -> None:
    web.root = tmp_path / "root"
    web.root.mkdir()
    path = write_tiny_llama(web.root / "tiny.gguf", layers=2)
    headers = HeaderCache(tmp_path / "cache")
    assert (await models(headers).inspect(source(web)))[1].block_count == 2
    write_tiny_llama(path, layers=3)
    files, profile = await models(headers).inspect(source(web))
    assert (profile.block_count, files.size) == (3, path.stat().st_size)


async def test_without_an_etag_nothing_is_kept(web: FakeWeb, tmp_path: Path) -> None:
    web.etags = False
    for _ in range(2):
        await models(HeaderCache(tmp_path)).inspect(source(web))
    assert [asked.status for asked in web.asked] == [206, 206]


async def test_a_file_that_is_changed_while_it_is_read(web: FakeWeb, smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "smol.gguf"
    with smollm2.open("rb") as file:
        path.write_bytes(file.read(2 * MIB))
    os.truncate(path, smollm2.stat().st_size)
    web.root = tmp_path
    web.before_answer = lambda _: os.utime(path, (len(web.asked), len(web.asked)))
    error = await refusal(web, "smol.gguf")
    assert (error.code, error.retryable) == ("url_unavailable", True)
    assert "was changed while it was read" in str(error)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "retryable", "words"),
    [
        ("none.gguf", "file_not_found", False, "there is no file"),
        ("status/410/x.gguf", "file_not_found", False, "there is no file"),
        ("status/401/x.gguf", "access_denied", False, "not open to everybody (401)"),
        ("status/403/x.gguf", "access_denied", False, "not open to everybody (403)"),
        ("status/429/x.gguf", "url_unavailable", True, "answered 429 Too Many Requests"),
        ("status/503/x.gguf", "url_unavailable", True, "answered 503 Service Unavailable"),
        ("status/418/x.gguf", "url_unavailable", False, "answered 418"),
        ("status/599/x.gguf", "url_unavailable", True, "answered 599"),
        ("status/301/x.gguf", "url_unavailable", False, "answered 301"),
        ("empty.gguf", "truncated_gguf", False, "is empty"),
        ("page.gguf", "not_gguf", False, "begins with b'<htm'"),
    ],
)
async def test_what_cannot_be_used_is_told(web: FakeWeb, path: str, code: str, retryable: bool, words: str) -> None:
    error = await refusal(web, path)
    assert (error.code, error.retryable) == (code, retryable)
    assert words in str(error)
    assert f"{web.url}/{path}" in str(error)
    assert "a secret" not in str(error)


async def test_a_server_that_breaks_off(web: FakeWeb) -> None:
    web.cut_after = 100_000
    error = await refusal(web)
    assert (error.code, error.retryable) == ("url_unavailable", True)


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_server_that_does_not_say_how_large_the_file_is(web: FakeWeb, ranges: bool) -> None:
    web.unsized, web.ranges = True, ranges
    error = await refusal(web)
    assert (error.code, "how large a file it sends" in str(error)) == ("url_unavailable", True)


async def test_a_server_that_packs(web: FakeWeb) -> None:
    web.packed = True
    error = await refusal(web)
    assert (error.code, "packs what it sends (gzip)" in str(error)) == ("url_unavailable", True)


async def test_the_deadline_holds(web: FakeWeb) -> None:
    error = await refusal(web, seconds=0)
    assert (error.code, error.retryable, "too slow" in str(error)) == ("url_unavailable", True, True)


async def test_a_server_that_sends_a_byte_at_a_time_holds_nothing_up() -> None:
    with DrippingServer(b"HTTP/1.1 206 Partial Content\r\nX-Endless: ") as server:
        with pytest.raises(ModelSourceError, match="too slow") as raised:
            await models(seconds=1).inspect(ModelSource.parse(f"http://127.0.0.1:{server.port}/m.gguf"))
        assert (server.dripping.is_set(), server.patient.is_set()) == (True, False)
    assert (raised.value.code, raised.value.retryable) == ("url_unavailable", True)


async def test_by_default_only_the_public_internet_over_https(web: FakeWeb) -> None:
    for address in (source(web), ModelSource.parse("https://127.0.0.1/m.gguf")):
        with pytest.raises(ModelSourceError) as raised:
            await UrlModels().inspect(address)
        assert raised.value.code == "url_not_allowed"
    assert web.asked == []


async def test_a_file_source_is_no_web_address() -> None:
    with pytest.raises(ValueError, match="no web address"):
        await models().inspect(ModelSource.parse("file:/models/a.gguf"))
