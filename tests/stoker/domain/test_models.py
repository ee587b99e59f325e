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
        ("http://example.org/m.gguf", "no model source"),
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


@given(st.text())
def test_whatever_is_accepted_stays_where_it_should(text: str) -> None:
    try:
        source = ModelSource.parse(text)
    except ValueError:
        return
    assert ".." not in source.path.split("/")
    assert ".." not in source.repo
    assert ".." not in source.file
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
