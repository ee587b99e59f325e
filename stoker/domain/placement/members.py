"""A worker as a possible member of a team."""

from typing import NamedTuple

from stoker.domain.placement.fleet import Host, Room


class Member(NamedTuple):
    """One worker with the rooms that it would give, largest first, and no more layers than which each holds."""

    host: Host
    sized: tuple[tuple[int, Room], ...]
    order: tuple[float, ...]  # the lower, the sooner it is tried

    @property
    def rooms(self) -> tuple[Room, ...]:
        """What it would give."""
        return tuple(room for _, room in self.sized)

    @property
    def most(self) -> int:
        """No more layers than this on all its rooms."""
        return -int(self.order[0])

    @property
    def free(self) -> int:
        """Bytes of its rooms."""
        return sum(room.free for _, room in self.sized)
