"""Sizes, times and counts as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.units import (
    GIB,
    KIB,
    MIB,
    TIB,
    format_bytes,
    format_count,
    parse_bytes,
    parse_count,
    parse_duration,
)


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604_800), ("12h", 43_200), ("1.5h", 5400), ("30m", 1800), ("45s", 45), ("2w", 1_209_600), (" 0 s ", 0)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "7 days", "7d12h", "1e3s", "nan", "٣d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write it like 7d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("60", 60), ("100k", 100_000), ("10M", 10_000_000), (" 1.5 g ", 1_500_000_000), ("2B", 2_000_000_000)],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "-1", "1e6", "10 MB", "1,000", "nan", "none", "٣"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number: write it like 60, 100k or 10M"):
        parse_count(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1234, "1234"), (1500, "1.5k"), (10**7, "10M"), (2**53, str(2**53))]
)
def test_counts_shown(count: int, text: str) -> None:
    assert format_count(count) == text


@given(st.integers(min_value=0, max_value=2**53))
def test_a_count_that_is_shown_is_exact(count: int) -> None:
    assert parse_count(format_count(count)) == count
