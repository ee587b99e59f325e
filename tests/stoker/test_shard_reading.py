"""Shards that are read side by side."""

import threading

import pytest

from stoker.shard_reading import AT_ONCE, side_by_side


@pytest.mark.parametrize("count", [1, 2, AT_ONCE, 3 * AT_ONCE + 1])
def test_the_answers_come_in_order(count: int) -> None:
    assert side_by_side(lambda index: index * 10, count) == [index * 10 for index in range(count)]


def test_they_really_are_side_by_side() -> None:
    together = threading.Barrier(AT_ONCE, timeout=30)

    def read(index: int) -> int:
        together.wait()
        return index

    assert len(side_by_side(read, AT_ONCE)) == AT_ONCE


def test_one_alone_needs_no_thread() -> None:
    assert side_by_side(lambda _: threading.current_thread(), 1) == [threading.current_thread()]


def test_the_first_that_fails_is_the_error_and_the_rest_is_not_begun() -> None:
    begun = []

    def read(index: int) -> int:
        begun.append(index)
        if index in (1, 3):
            raise LookupError(index)
        return index

    with pytest.raises(LookupError) as raised:
        side_by_side(read, 500)
    assert raised.value.args == (1,)
    assert len(begun) < 500
