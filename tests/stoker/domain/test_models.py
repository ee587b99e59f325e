"""Model sources: a strict grammar, since they reach hosts' disks and a hub."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.models import ModelSource, SourceKind, shard_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:/data/m.gguf", ModelSource(kind=SourceKind.FILE, path="/data/m.gguf")),
        ("hf:org/repo", ModelSource(kind=SourceKind.HUB, repo="org/repo")),
        ("hf:org/repo:Q4_K_M", ModelSource(kind=SourceKind.HUB, repo="org/repo", quant="Q4_K_M")),
        ("hf:org/repo/m.gguf", ModelSource(kind=SourceKind.HUB, repo="org/repo", file="m.gguf")),
        ("https://h.test/m.gguf", ModelSource(kind=SourceKind.URL, url="https://h.test/m.gguf")),
        (
            "http://[::1]:8000/a%20b/m-00001-of-00002.gguf",
            ModelSource(kind=SourceKind.URL, url="http://[::1]:8000/a%20b/m-00001-of-00002.gguf"),
        ),
        ("hf:org/repo/sub/m.gguf", ModelSource(kind=SourceKind.HUB, repo="org/repo", file="sub/m.gguf")),
    ],
)
def test_parse_and_write(text: str, expected: ModelSource) -> None:
    assert ModelSource.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no model source"),
        ("m.gguf", "no model source"),
        ("ftp://example.org/m.gguf", "no model source"),
        ("https:", "no model source"),
        ("https://", "address of a .gguf file"),
        ("https:///m.gguf", "address of a .gguf file"),
        ("https://h.test/m.bin", "address of a .gguf file"),
        ("https://h.test/m.gguf?token=x", r"without user, \?query"),
        ("https://h.test/m.gguf#x", r"without user, \?query"),
        ("https://me:secret@h.test/m.gguf", "without user"),
        ("https://h.test\\@evil.test/m.gguf", "address of a .gguf file"),
        ("https://h.test/m.gguf\n", "address of a .gguf file"),
        ("https://h.test/a b.gguf", "address of a .gguf file"),
        ("https://h\u00e9.test/m.gguf", "address of a .gguf file"),
        ("https://h.test/../m.gguf", r"without '\.\.'"),
        ("https://h.test:99999/m.gguf", "must name a host"),
        ("https://h.test:0/m.gguf", "must name a host"),
        ("https://[::::]/m.gguf", "must name a host"),
        (f"https://h.test/{'x' * 2048}.gguf", "at most 2048 characters"),
        ("file:", "no model source"),
        ("file:m.gguf", "absolute path"),
        ("file:/data/../etc/m.gguf", "without '..'"),
        ("file:/data/m.bin", "must end in .gguf"),
        ("file:/data/\0.gguf", "absolute path"),
        ("hf:repo", "ORG/REPO"),
        ("hf:org/../m.gguf", "ORG/REPO"),
        ("hf:org/repo:Q4 K", "no quantisation"),
        ("hf:org/repo/../../m.gguf", "path of a .gguf file"),
        ("hf:org/repo/m.bin", "path of a .gguf file"),
        ("hf:-org/repo", "ORG/REPO"),
        ("hf:org/repo:Q4_0\n", "no quantisation"),
        ("hf:org/repo\n", "ORG/REPO"),
    ],
)
def test_refusals_say_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModelSource.parse(text)


@given(st.one_of(st.text(), st.from_regex(r"https?://[^/]+/.*\.gguf")))
def test_whatever_is_accepted_stays_where_it_should(text: str) -> None:
    try:
        source = ModelSource.parse(text)
    except ValueError:
        return
    assert ".." not in source.path.split("/")
    assert ".." not in source.repo
    assert ".." not in source.file
    assert ".." not in source.url.split("/")
    assert ModelSource.parse(str(source)) == source


def test_shards_are_named_from_the_first() -> None:
    assert shard_names("m.gguf") == ("m.gguf",)
    assert shard_names("d/m-00001-of-00003.gguf") == (
        "d/m-00001-of-00003.gguf",
        "d/m-00002-of-00003.gguf",
        "d/m-00003-of-00003.gguf",
    )


def test_another_shard_than_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name the first, m-00001-of-00003\.gguf"):
        shard_names("m-00002-of-00003.gguf")


def test_a_model_of_too_many_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="one of 99999 shards: at most 512"):
        shard_names("m-00001-of-99999.gguf")
