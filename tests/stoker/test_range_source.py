"""Reading a remote file at offsets: the right bytes, in few requests."""

import hashlib
import time
from collections.abc import Iterator

import pytest
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.domain.units import KIB, MIB
from stoker.model_source_error import ModelSourceError
from stoker.range_source import RangeSource
from tests.fakes.hub import FakeHub

SIZE = 4 * MIB + 17
CONTENT = hashlib.shake_128(b"content").digest(SIZE)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    root = tmp_path_factory.mktemp("hub")
    (root / "acme/one").mkdir(parents=True)
    (root / "acme/one/one.gguf").write_bytes(CONTENT)
    with FakeHub(root) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def source(fake: FakeHub, *, size: int = SIZE, seconds: float = 60) -> RangeSource:
    fake.forget()
    deadline = time.monotonic() + seconds
    return RangeSource(f"{fake.url}/acme/one/resolve/main/one.gguf", size, headers={}, deadline=deadline)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE + 5), st.integers(0, MIB)), min_size=1, max_size=4))
def test_any_read_gives_the_bytes_at_its_offset(fake: FakeHub, reads: list[tuple[int, int]]) -> None:
    remote = source(fake)
    for offset, length in reads:
        assert remote.read(offset, length) == CONTENT[offset : offset + length]


def test_reading_on_takes_ever_larger_blocks(fake: FakeHub) -> None:
    remote = source(fake)
    for offset in range(0, SIZE, 64 * KIB):
        assert remote.read(offset, 64 * KIB) == CONTENT[offset : offset + 64 * KIB]
    first, *_, last = [request.range for request in fake.content_requests()]
    assert first == f"bytes=0-{512 * KIB - 1}"
    assert last == f"bytes={512 * KIB * 7}-{SIZE - 1}"
    assert len(fake.content_requests()) == 4
    assert fake.content_sent == SIZE


def test_a_file_that_is_shorter_than_listed(fake: FakeHub) -> None:
    with pytest.raises(ModelSourceError, match=f"ends at byte {SIZE}, before the {SIZE + 9} bytes") as raised:
        source(fake, size=SIZE + 9).read(SIZE - 5, 10)
    assert raised.value.retryable
    with pytest.raises(HfHubHTTPError, match="416"):
        source(fake, size=SIZE + 9).read(SIZE, 1)


def test_the_deadline_ends_a_read(fake: FakeHub) -> None:
    with pytest.raises(ModelSourceError, match="too slow"):
        source(fake, seconds=0).read(0, MIB)
