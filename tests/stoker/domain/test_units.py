"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.units import GIB, KIB, MIB, TIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("2GiB", 2 * GIB),
        ("2 GiB", 2 * GIB),
        ("512M", 512 * MIB),
        ("1.5g", 3 * GIB // 2),
        ("80GB", 80_000_000_000),
        ("1TiB", TIB),
        ("64kib", 64 * KIB),
    ],
)
def test_parse(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 gigs", "1e9", "2GiB3", "nan", "٣GiB"])
def test_parse_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write it like 2GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (1536, "1.5 KiB"),
        (98_362_432, "93.8 MiB"),
        (1000 * MIB, "1000 MiB"),
        (24 * GIB, "24 GiB"),
        (-GIB, "-1 GiB"),
    ],
)
def test_format(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(min_value=0, max_value=900 * TIB))
def test_what_is_shown_is_within_half_a_percent(count: int) -> None:
    assert abs(parse_bytes(format_bytes(count)) - count) <= count * 0.006
