"""Ranking what is equally good in workers and devices. A score is a number: the higher, the better."""

from collections.abc import Sequence

from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.problem import Problem

FILE_WORTH = 0.25
"""A worker that holds the file already may be fuller than another by this part of a device: a download is spared."""


_WHOLE = float(1 << 40)  # bytes that make 1 of a binpack score


def score(problem: Problem, host: Host, rooms: Sequence[Room], needed: int) -> float:
    """Of taking `needed` bytes of `rooms`. Spread: the part of them that stays free. Binpack: the fewest bytes left.

    Binpack counts bytes and not parts, so that large holes are kept whole.
    """
    size = sum(room.device.total for room in rooms)
    return _score(problem, host, sum(room.free for room in rooms) - needed, size or 1)


def score_of_one(problem: Problem, host: Host, room: Room, needed: int) -> float:
    """The same of one room."""
    return _score(problem, host, room.free - needed, room.device.total or 1)


def _score(problem: Problem, host: Host, left: int, size: int) -> float:
    found = -left / _WHOLE if problem.is_packed else left / size
    if host.held_files and problem.holds_file(host):
        found += FILE_WORTH * (size / _WHOLE if problem.is_packed else 1)
    return found
