"""The checked numbers of a header."""

from typing import Any

import pytest

from stoker.domain.architectures.keys import MAX_NUMBER, Keys
from stoker.domain.gguf import MetadataArray, MetadataValue


def keys(**values: MetadataValue) -> Keys:
    return Keys({"general.architecture": "llama"} | {f"llama.{key}": value for key, value in values.items()})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (7, 7), (MAX_NUMBER, MAX_NUMBER), (MetadataArray(3, (1, 5, 2)), 5), (MetadataArray(0), 0)],
)
def test_a_number_or_the_largest_of_an_array(value: MetadataValue, expected: int) -> None:
    assert keys(n=value).number("n") == expected


def test_a_missing_number_has_a_default_unless_it_must_be_there() -> None:
    assert keys().number("n") == 0
    assert keys().number("n", 5) == 5
    with pytest.raises(ValueError, match=rf"llama\.n is missing: it must be a number from 0 to {MAX_NUMBER}"):
        keys().number("n", None)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (-1, "-1"),
        (MAX_NUMBER + 1, str(MAX_NUMBER + 1)),
        (1.0, r"1\.0"),
        (True, "True"),
        ("2", "'2'"),
        (float("nan"), "nan"),
        (MetadataArray(2, (1, -1)), "-1"),
        (MetadataArray(1, (2.5,)), r"2\.5"),
    ],
)
def test_what_is_no_number_is_refused_by_name(value: MetadataValue, told: str) -> None:
    with pytest.raises(ValueError, match=rf"llama\.n is {told}: it must be a number"):
        keys(n=value).number("n")
    with pytest.raises(ValueError, match=rf"llama\.n is {told}: it must be a number"):
        keys(n=value).per_layer("n", 1 if not isinstance(value, MetadataArray) else value.length)


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(ValueError, match="must be a number") as refused:
        keys(n="x" * 10_000).number("n")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, (3, 3, 3)),
        (MetadataArray(3, (1, 2, 3)), (1, 2, 3)),
        (MetadataArray(4, (1, 2, 3, 4)), (1, 2, 3)),
    ],
)
def test_one_number_for_all_layers_or_one_for_each(value: Any, expected: tuple[int, ...]) -> None:
    assert keys(n=value).per_layer("n", 3) == expected


@pytest.mark.parametrize("value", [MetadataArray(2, (1, 2)), MetadataArray(9999)])
def test_fewer_numbers_than_layers(value: MetadataArray) -> None:
    """An array of which only the length was kept has no numbers."""
    with pytest.raises(ValueError, match=rf"llama\.n has {value.length} numbers for 3 layers"):
        keys(n=value).per_layer("n", 3)


def test_flags() -> None:
    assert keys(n=MetadataArray(3, (True, 0, 1))).flags("n", 3) == (True, False, True)
    assert keys(n=MetadataArray(4, (1, 1, 0, 1))).flags("n", 2) == (True, True)
    assert keys(n=6).flags("n", 3) is None
    assert keys().flags("n", 3) is None


def test_what_is_there() -> None:
    found = keys(n=0, m=MetadataArray(70_000))
    assert (found.has("n"), found.has("x")) == (True, False)
    assert (found.length("m"), found.length("n"), found.length("x")) == (70_000, 0, 0)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "general.architecture is 'None': it must be a name like llama or qwen2"),
        ({"general.architecture": 7}, "general.architecture is '7'"),
        ({"general.architecture": "a b"}, "general.architecture is 'a b'"),
        ({"general.architecture": "LLAMA"}, "general.architecture is 'LLAMA'"),
        ({"general.architecture": "x" * 64}, "must be a name"),
        ({"general.architecture": MetadataArray(1, (1,))}, "must be a name"),
        ({"general.architecture": "clip"}, "a multimodal projector, not a model"),
        ({"general.architecture": "llama", "general.type": "adapter"}, "a LoRA adapter, not a model"),
        ({"general.architecture": "llama", "general.type": "mmproj"}, "a multimodal projector, not a model"),
        ({"general.architecture": "llama", "general.type": "imatrix"}, "an importance matrix, not a model"),
    ],
)
def test_files_that_are_no_model(metadata: dict[str, MetadataValue], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Keys(metadata)


@pytest.mark.parametrize("kind", ["model", 7, MetadataArray(0), "novel"])
def test_any_other_type_may_be_a_model(kind: MetadataValue) -> None:
    assert Keys({"general.architecture": "gpt-oss", "general.type": kind}).architecture == "gpt-oss"
