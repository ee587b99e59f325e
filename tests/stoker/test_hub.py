"""The control plane's view of the hub, against a stand-in that speaks what the real one does."""

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from activities.ports import ModelHub, ModelSourceError
from stoker.byte_source import FileSource
from stoker.domain.models import ModelFile, ModelSource
from stoker.domain.units import MIB
from stoker.gguf_header import read_profile
from stoker.header_cache import HeaderCache
from stoker.hub import HuggingFaceHub
from stoker.range_source import FIRST_BLOCK, SHARD_BLOCK
from tests.builders import write_tiny_llama
from tests.fakes.hub import FakeHub

pytestmark = pytest.mark.anyio
TOKEN = "hf_of_this_test"


@pytest.fixture(autouse=True)
def _hub_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # or it keeps a file in the home folder
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acme/tiny: several quantisations · acme/sharded · acme/twins: two models · acme/empty."""
    root = tmp_path_factory.mktemp("hub")
    for repo in ("tiny", "sharded", "twins", "empty"):
        (root / "acme" / repo).mkdir(parents=True)
        (root / "acme" / repo / "README.md").write_text("# A model\n")
    big = write_tiny_llama(root / "acme/tiny/tiny-Q4_K_M.gguf", size_hint=12 * MIB)
    shutil.copy(big, root / "acme/tiny/tiny-Q8_0.gguf")
    (root / "acme/tiny/mmproj-F16.gguf").write_bytes(b"not a language model")
    write_tiny_llama(root / "acme/sharded/sharded-F16.gguf", max_tensors_per_file=8)
    for name in ("one", "two"):
        write_tiny_llama(root / f"acme/twins/{name}-Q4_K_M.gguf")
    return root


@pytest.fixture
def fake(repositories: Path) -> Iterator[FakeHub]:
    with FakeHub(repositories, token=TOKEN, gated=("acme/sharded",), private=("acme/twins",)) as hub:
        yield hub


@pytest.mark.parametrize("quant", ["", ":q4_k_m", "/tiny-Q4_K_M.gguf"])
async def test_a_source_is_pinned_and_its_header_read(fake: FakeHub, repositories: Path, quant: str) -> None:
    path = repositories / "acme/tiny/tiny-Q4_K_M.gguf"
    source = ModelSource.parse(f"hf:acme/tiny{quant}")
    hub: ModelHub = HuggingFaceHub(endpoint=fake.url)

    files, profile = await hub.inspect(source)

    stored = fake.files("acme/tiny")
    assert stored is not None
    sha256 = stored["tiny-Q4_K_M.gguf"].sha256
    assert files.source == source
    assert files.revision == fake.commit("acme/tiny")
    assert files.files == (ModelFile(path="tiny-Q4_K_M.gguf", size=path.stat().st_size, sha256=sha256),)
    with FileSource(path) as local:
        assert profile == read_profile([local])
    assert fake.content_sent <= MIB + MIB // 2
    assert all(request.range for request in fake.content_requests())


async def test_the_largest_read_ahead_is_bounded_by_the_header(fake: FakeHub, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "acme/smol").mkdir(parents=True)
    (tmp_path / "acme/smol/SmolLM2.Q4_1.gguf").symlink_to(smollm2)
    with FakeHub(tmp_path) as hub:
        files, profile = await HuggingFaceHub(endpoint=hub.url).inspect(ModelSource.parse("hf:acme/smol:Q4_1"))
        assert (profile.architecture, profile.block_count, profile.file_type) == ("llama", 30, "Q4_1")
        assert hub.content_sent < files.size / 20


async def test_all_shards_are_found_and_read(fake: FakeHub) -> None:
    files, profile = await HuggingFaceHub(endpoint=fake.url, token=TOKEN).inspect(ModelSource.parse("hf:acme/sharded"))
    assert [file.path for file in files.files] == [f"sharded-F16-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert profile.block_count == 2
    assert profile.layers[1].weights > 0


async def test_the_token_opens_the_hub_and_is_not_sent_on(fake: FakeHub) -> None:
    await HuggingFaceHub(endpoint=fake.url, token=TOKEN).inspect(ModelSource.parse("hf:acme/sharded"))
    assert {request.authorized for request in fake.content_requests()} == {False}
    assert {request.authorized for request in fake.requests} == {True, False}


async def test_a_server_without_ranges_is_read_no_further_than_needed(fake: FakeHub) -> None:
    fake.faults.no_ranges = True
    files, profile = await HuggingFaceHub(endpoint=fake.url).inspect(ModelSource.parse("hf:acme/tiny"))
    assert profile.block_count == 2
    assert fake.content_sent < files.size


@pytest.mark.parametrize(
    ("source", "code", "parts"),
    [
        pytest.param("hf:acme/none", "model_not_found", ["no model acme/none", "HF_TOKEN on the server"], id="repo"),
        pytest.param("hf:acme/no--ne", "model_not_found", ["'acme/no--ne'"], id="name that no repo can have"),
        pytest.param("hf:acme/twins", "model_not_found", ["no model acme/twins"], id="private"),
        pytest.param("hf:acme/sharded", "access_denied", ["is gated", "HF_TOKEN on the server"], id="gated"),
        pytest.param("hf:acme/tiny:Q2_K", "file_not_found", ["Q2_K", "tiny-Q4_K_M.gguf, tiny-Q8_0.gguf"], id="quant"),
        pytest.param("hf:acme/tiny/x.gguf", "file_not_found", ["x.gguf", "tiny-Q8_0.gguf"], id="file"),
        pytest.param("hf:acme/empty", "file_not_found", ["hf:acme/empty", "no GGUF model"], id="no GGUF"),
        pytest.param("hf:acme/tiny/mmproj-F16.gguf", "not_gguf", ["hf:acme/tiny/mmproj-F16.gguf"], id="no header"),
    ],
)
async def test_what_cannot_be_used_is_told(fake: FakeHub, source: str, code: str, parts: list[str]) -> None:
    with pytest.raises(ModelSourceError) as raised:
        await HuggingFaceHub(endpoint=fake.url).inspect(ModelSource.parse(source))
    assert raised.value.code == code
    assert not raised.value.retryable
    assert [part for part in parts if part not in str(raised.value)] == []


async def test_several_candidates_are_listed(fake: FakeHub) -> None:
    with pytest.raises(ModelSourceError, match=r"one-Q4_K_M\.gguf, two-Q4_K_M\.gguf; name one of them") as raised:
        await HuggingFaceHub(endpoint=fake.url, token=TOKEN).inspect(ModelSource.parse("hf:acme/twins:Q4_K_M"))
    assert raised.value.code == "ambiguous_model"


async def test_a_wrong_token_is_told_and_not_repeated(fake: FakeHub) -> None:
    with pytest.raises(ModelSourceError) as raised:
        await HuggingFaceHub(endpoint=fake.url, token="hf_wrong").inspect(ModelSource.parse("hf:acme/sharded"))
    assert raised.value.code == "access_denied"
    assert "hf_wrong" not in str(raised.value)


@pytest.mark.parametrize("fault", ["busy", "cut", "gone"])
async def test_a_hub_that_fails_may_be_tried_again(fake: FakeHub, fault: str) -> None:
    if fault == "busy":
        fake.faults.unavailable = 1
    elif fault == "cut":
        fake.faults.cut_after = 0
    endpoint = "http://127.0.0.1:9" if fault == "gone" else fake.url  # 9: discard, which nobody serves
    with pytest.raises(ModelSourceError) as raised:
        await HuggingFaceHub(endpoint=endpoint).inspect(ModelSource.parse("hf:acme/tiny"))
    assert raised.value.code == "hub_unavailable"
    assert raised.value.retryable
    assert endpoint in str(raised.value)


async def test_the_deadline_holds_for_slow_contents(fake: FakeHub) -> None:
    with pytest.raises(ModelSourceError, match="too slow") as raised:
        await HuggingFaceHub(endpoint=fake.url, timeout_seconds=0).inspect(ModelSource.parse("hf:acme/tiny"))
    assert (raised.value.code, raised.value.retryable) == ("hub_unavailable", True)


class Portal(BaseHTTPRequestHandler):
    """A proxy's login page in place of everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, *_: object) -> None:
        pass


async def test_something_else_behind_the_address(fake: FakeHub) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Portal) as portal:
        threading.Thread(target=portal.serve_forever, kwargs={"poll_interval": 0.05}).start()
        for endpoint in (f"http://127.0.0.1:{portal.server_port}", f"{fake.url}/elsewhere"):
            with pytest.raises(ModelSourceError, match="check HF_ENDPOINT and the proxy") as raised:
                await HuggingFaceHub(endpoint=endpoint).inspect(ModelSource.parse("hf:acme/tiny"))
            assert (raised.value.code, raised.value.retryable) == ("hub_unavailable", False)
        portal.shutdown()


async def test_offline_the_cache_is_the_hub(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModelSource.parse("hf:acme/tiny:Q8_0")
    online = await HuggingFaceHub(endpoint=fake.url).inspect(source)
    revision = online[0].revision
    hf_hub_download("acme/tiny", "tiny-Q8_0.gguf", revision=revision, cache_dir=tmp_path, endpoint=fake.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake.forget()
    hub = HuggingFaceHub(endpoint=fake.url, cache_dir=tmp_path)

    assert await hub.inspect(source) == online

    with pytest.raises(ModelSourceError, match=r"Q4_K_M; there is tiny-Q8_0\.gguf") as raised:
        await hub.inspect(ModelSource.parse("hf:acme/tiny:Q4_K_M"))
    assert raised.value.code == "file_not_found"
    with pytest.raises(ModelSourceError, match="HF_HUB_OFFLINE") as raised:
        await hub.inspect(ModelSource.parse("hf:acme/sharded"))
    assert (raised.value.code, raised.value.retryable) == ("hub_unavailable", False)
    assert fake.requests == []


async def test_what_was_read_before_is_not_read_again(fake: FakeHub, tmp_path: Path) -> None:
    source = ModelSource.parse("hf:acme/sharded")
    first = await HuggingFaceHub(endpoint=fake.url, token=TOKEN, headers=HeaderCache(tmp_path)).inspect(source)
    fake.forget()
    later = HuggingFaceHub(endpoint=fake.url, token=TOKEN, headers=HeaderCache(tmp_path))  # another process
    assert await later.inspect(source) == first
    assert [request.path.partition("?")[0] for request in fake.requests] == ["/api/models/acme/sharded"]
    assert await later.inspect(source) == first
    assert len(fake.requests) == 1, "and a moment later not even the commit is asked for"


async def test_what_was_read_before_counts_towards_what_a_model_may_hold(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HuggingFaceHub(endpoint=fake.url, token=TOKEN, headers=HeaderCache(tmp_path))
    await hub.inspect(ModelSource.parse("hf:acme/sharded"))
    monkeypatch.setattr("stoker.bounded_reader.MAX_TENSORS", 16)
    with pytest.raises(ModelSourceError, match="too many tensors"):
        await hub.inspect(ModelSource.parse("hf:acme/sharded"))


async def test_a_new_commit_is_seen_once_the_listing_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acme/tiny/tiny-F16.gguf"
    path.parent.mkdir(parents=True)
    write_tiny_llama(path, layers=2)
    with FakeHub(tmp_path) as fake:
        hub, source = HuggingFaceHub(endpoint=fake.url), ModelSource.parse("hf:acme/tiny:F16")
        assert (await hub.inspect(source))[1].block_count == 2
        write_tiny_llama(path.with_name("tiny-Q8_0.gguf"))
        assert len((await hub.inspect(ModelSource.parse("hf:acme/tiny:Q8_0")))[0].files) == 1, "what is new is found"
        write_tiny_llama(path, layers=3)
        monkeypatch.setattr("stoker.hub.LISTING_SECONDS", -1)
        files, profile = await hub.inspect(source)
        assert (files.revision, profile.block_count) == (fake.commit("acme/tiny"), 3)


async def test_a_shard_behind_the_first_costs_little(fake: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "acme/large"
    folder.mkdir(parents=True)
    write_tiny_llama(folder / "large-F16.gguf", size_hint=12 * MIB, max_tensors_per_file=5)
    with FakeHub(tmp_path) as hub:
        files, _ = await HuggingFaceHub(endpoint=hub.url).inspect(ModelSource.parse("hf:acme/large"))
        asked = sorted(int(request.range.rpartition("-")[2]) + 1 for request in hub.content_requests())
    assert len(files.files) == len(asked) == 5, "one request a file"
    sizes = [min(SHARD_BLOCK, file.size) for file in files.files[1:]]
    assert asked == sorted([*sizes, min(FIRST_BLOCK, files.files[0].size)])


async def test_a_file_source_is_not_for_the_hub(fake: FakeHub) -> None:
    with pytest.raises(ValueError, match="no hub source"):
        await HuggingFaceHub(endpoint=fake.url).inspect(ModelSource.parse("file:/models/a.gguf"))
