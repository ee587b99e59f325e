"""Chains of devices, on costs that are literals."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.placement.bounds import Bounds
from stoker.domain.placement.cover import Chain, Spans
from stoker.domain.placement.evening import balanced
from stoker.domain.placement.fleet import Room
from tests.builders import make_device


class Weights:
    """Layers that take what they weigh, and a device `overhead` beside them."""

    def __init__(self, weights: Sequence[int], overhead: int = 0) -> None:
        self._sums = list(accumulate(weights, initial=0))
        self._overhead = overhead
        self.layers = len(weights)

    def column(self, end: int, *, on_gpu: bool, pipelined: bool) -> Sequence[int]:
        """The same on a CPU and in a pipeline."""
        return [self._sums[end] - self._sums[start] + self._overhead for start in range(end)]


def spans(*weights: int, overhead: int = 0, first: int = 0) -> Spans:
    return Spans(Bounds(Weights(weights, overhead), pipelined=True), first=first)


def rooms(*sizes: int) -> list[Room]:
    return [Room(size, make_device(id=f"gpu{index}"), "w", True) for index, size in enumerate(sizes)]


def shown(chain: Chain | None) -> list[tuple[int, int]] | None:
    """Room and layers of each device."""
    return None if chain is None else [(r.free, n) for r, n in zip(chain.rooms, chain.counts, strict=True)]


@pytest.mark.parametrize(
    ("weights", "sizes", "expected"),
    [
        pytest.param((5, 5, 5, 5), (20,), [(20, 4)], id="one holds all"),
        pytest.param((5, 5, 5, 5), (9, 19), [(9, 1), (19, 3)], id="what does not divide is not used"),
        pytest.param((5, 5, 5, 5), (9, 14), None, id="enough bytes, and one layer too many"),
        pytest.param((5, 5, 5, 5), (10, 10), [(10, 2), (10, 2)], id="two hold two each"),
        pytest.param((9, 1, 1, 1), (3, 9), [(9, 1), (3, 3)], id="the order is found: the large layer needs the large"),
        pytest.param((1, 1, 1, 9), (3, 9), [(3, 3), (9, 1)], id="the same the other way round"),
        pytest.param((2, 7, 2, 7), (9, 9), [(9, 2), (9, 2)], id="unequal layers"),
        pytest.param((4, 4, 4), (3, 3, 3, 3, 3), None, id="devices that hold no layer are no use"),
        pytest.param((4, 4, 4), (3, 12, 5), [(12, 3)], id="the fewest"),
    ],
)
def test_the_fewest_devices(
    weights: tuple[int, ...], sizes: tuple[int, ...], expected: list[tuple[int, int]] | None
) -> None:
    assert shown(spans(*weights).fewest(rooms(*sizes))) == expected


def test_more_than_fifteen_devices_are_no_answer() -> None:
    assert spans(*[4] * 15).fewest(rooms(*[4] * 20)) is not None
    assert spans(*[4] * 16).fewest(rooms(*[4] * 20)) is None


def test_the_overhead_of_each_device_counts() -> None:
    assert shown(spans(5, 5, 5, 5, overhead=1).fewest(rooms(10, 10, 10, 10))) == [(10, 1)] * 4
    assert spans(5, 5, 5, 5, overhead=1).fewest(rooms(10, 10, 10)) is None


def test_partly_the_furthest_reach_is_taken() -> None:
    chain = spans(5, 5, 5, 5, 1, first=1).furthest(rooms(6, 10))
    assert (chain.first, chain.layers) == (1, 4)
    assert spans(50, 5, 5, 5, 1, first=1).furthest(rooms(6, 5)).first == 2


def test_the_needed_device_is_in_the_chain_though_others_would_do() -> None:
    small, *large = rooms(1, 10, 10)
    chain = spans(5, 5, 1, 5, 4).fewest([small, *large], needed=[small])
    assert chain is not None
    assert small in chain.rooms
    assert sum(chain.counts) == 5


def test_a_needed_device_that_holds_no_layer_makes_no_chain() -> None:
    small, *large = rooms(1, 10, 10)
    assert spans(5, 5, 5).fewest([small, *large], needed=[small]) is None


def test_a_stretch_that_takes_less_than_a_shorter_one_is_found() -> None:
    """What lies between devices can outweigh a layer: then the longer stretch fits where the shorter does not."""

    class Dented(Weights):
        def column(self, end: int, *, on_gpu: bool, pipelined: bool) -> Sequence[int]:
            column = list(super().column(end, on_gpu=on_gpu, pipelined=pipelined))
            return [size + 10 if start == 2 else size for start, size in enumerate(column)]

    dented = Spans(Bounds(Dented([1, 1, 1, 1]), pipelined=True))
    assert dented.start(4, 3, True) == 1
    assert dented.start(4, 1, True) == 3


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_no_room_is_overfilled_and_all_layers_are_held(weights: list[int], sizes: list[int]) -> None:
    found = spans(*weights).fewest(rooms(*sizes))
    if found is None:
        return
    bounds = list(accumulate(found.counts, initial=0))
    assert bounds[-1] == len(weights)
    for room, (start, end) in zip(found.rooms, pairwise(bounds), strict=True):
        assert start < end
        assert sum(weights[start:end]) <= room.free


@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=10),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
def test_balancing_fills_no_device_more_than_before_the_fullest_was(weights: list[int], sizes: list[int]) -> None:
    found = spans(*weights).fewest(rooms(*sizes))
    if found is None:
        return
    even = balanced(spans(*weights), found)
    assert even.rooms == found.rooms
    assert sum(even.counts) == len(weights)
    assert fullest(weights, even) <= fullest(weights, found)


def fullest(weights: Sequence[int], chain: Chain) -> int:
    """The fullest device, in whole thousandths of its room."""
    bounds = list(accumulate(chain.counts, initial=0))
    return max(
        sum(weights[start:end]) * 1000 // (1 + room.free)
        for room, (start, end) in zip(chain.rooms, pairwise(bounds), strict=True)
    )


def test_equal_devices_are_filled_evenly() -> None:
    even = balanced(spans(*[4] * 33), Chain(tuple(rooms(40, 40, 40, 40)), (3, 10, 10, 10), 0))
    assert sorted(even.counts) == [8, 8, 8, 9]
