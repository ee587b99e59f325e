"""Covering a model's layers with devices: which device takes which stretch of them.

Layers keep their order, a device takes one stretch, and what a stretch takes is known (`StretchCosts`). So this is bin
covering: devices are put behind each other, from the output layer down, and each takes as many layers as its room
holds. Whatever the order, reaching further down is never worse: what is left for the others is less. That leaves the
order to be found, and of each set of devices only how far down it reaches at best: 2^k sets of k devices at most, and
far fewer, since devices that hold equally much are one kind, and since a set is dropped when even the most that the
others can hold is not enough.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.bounds import Bounds
from stoker.domain.placement.fleet import Room


class Chain(NamedTuple):
    """Devices behind each other. `first`: the lowest layer that they hold; with it they hold all behind it."""

    rooms: tuple[Room, ...]  # in the order of the layers
    counts: tuple[int, ...]  # layers of each, the output counted as one
    first: int

    @property
    def layers(self) -> int:
        """Layers of all devices together."""
        return sum(self.counts)


MOST_STATES = 512
"""Sets of devices that are looked at for one chain: all of nine unlike ones. Of more the most promising are."""

MOST_SOLVED = 4096  # chains that are remembered

_Solution = tuple[int, tuple[tuple[int, int], ...]]


class Spans:
    """How many layers fit into a room, when the layers from `first` on are to lie on devices."""

    def __init__(self, bounds: Bounds, *, first: int = 0) -> None:
        self.bounds, self.first = bounds, first
        self.costs, self.pipelined = bounds.costs, bounds.pipelined
        self.end = self.costs.layers
        self._starts: dict[tuple[int, bool], tuple[int, list[int]]] = {}
        self._solved: dict[tuple[bool, int, tuple[tuple[bool, bool, int], ...]], _Solution] = {}

    def start(self, end: int, free: int, on_gpu: bool) -> int:
        """The lowest layer from which on all layers before `end` fit into `free` bytes; `end` when not one does."""
        if end == self.first:
            return end
        whole, least = self._column(end, on_gpu)
        return self.first if whole <= free else end - bisect_right(least, free)

    def cost(self, start: int, end: int, on_gpu: bool) -> int:
        """Bytes of a device with the layers from `start` to before `end`."""
        return self.costs.column(end, on_gpu=on_gpu, pipelined=self.pipelined)[start]

    def most(self, free: int, on_gpu: bool) -> int:
        """No room of `free` bytes holds more layers than this, wherever they are."""
        return self.bounds.most_before(self.end, free, on_gpu)

    def level(self, free: int, on_gpu: bool) -> tuple[int, bool]:
        """Rooms of one level hold the same stretches."""
        return self.bounds.level(free, on_gpu), on_gpu

    def _column(self, end: int, on_gpu: bool) -> tuple[int, list[int]]:
        """What all layers from `first` take, and the least that 1, 2, … of the last layers before `end` take.

        Least, since a longer stretch may take less than a shorter one by what lies between devices: it then fits
        where the shorter one does not, and reaches further. Of all layers it is known apart: nothing lies before them.
        """
        found = self._starts.get((end, on_gpu))
        if found is None:
            column = self.costs.column(end, on_gpu=on_gpu, pipelined=self.pipelined)
            least: list[int] = []
            lowest = None
            for start in range(self.first + 1, end):
                lowest = column[start] if lowest is None else min(lowest, column[start])
                least.append(lowest)
            least.reverse()
            found = self._starts[end, on_gpu] = column[self.first], least
        return found

    # --- devices behind each other -----------------------------------------------------------------------------------

    def covering(self, rooms: Sequence[Room], needed: Room | None = None, *, quick: bool = False) -> Chain | None:
        """A chain of some of `rooms` that holds every layer from `first` on; None when no order of them does.

        `quick`: only the largest first and the largest last are tried.
        """
        chain = self.furthest(rooms, needed, states=0 if quick else MOST_STATES, only_all=True)
        return chain if chain.first == self.first else None

    def furthest(
        self, rooms: Sequence[Room], needed: Room | None = None, *, states: int = MOST_STATES, only_all: bool = False
    ) -> Chain:
        """The chain of some of `rooms` (at most MAX_DEVICES) that reaches furthest down, in the best order.

        `needed`: one of them that must be in it; where it can hold nothing, the chain is empty. `states`: sets of
        devices that are looked at for it. `only_all`: what does not hold every layer is of no use.
        """
        kinds: dict[tuple[bool, bool, int], list[Room]] = {}
        for room in rooms:
            if self.most(room.free, room.on_gpu):
                level, on_gpu = self.level(room.free, room.on_gpu)
                kinds.setdefault((room is needed, on_gpu, level), []).append(room)
        levels = sorted(kinds, reverse=True)  # the needed one, which is a kind of its own, comes first
        if needed is not None and not (levels and levels[0][0]):
            return Chain((), (), self.end)
        key = only_all, states, tuple(level for level in levels for _ in kinds[level])
        solved = self._solved.get(key)
        if solved is None:
            if len(self._solved) >= MOST_SOLVED:
                self._solved.clear()
            sizes = [_Kind(kinds[level]) for level in levels]
            solved = self._solved[key] = self._solve(sizes, needed=needed is not None, states=states, only_all=only_all)
        first, steps = solved
        left = [iter(kinds[level]) for level in levels]
        pieces = [(next(left[kind]), layers) for kind, layers in steps]
        return Chain(tuple(room for room, _ in pieces), tuple(layers for _, layers in pieces), first)

    def _solve(self, kinds: "Sequence[_Kind]", *, needed: bool, states: int, only_all: bool) -> _Solution:
        """How far down they reach, and the kind and layers of each device from the lowest layers up."""
        in_turn = [index for index, kind in enumerate(kinds) for _ in range(kind.count)]
        best: _Solution = (self.end, ())
        for order in (in_turn, in_turn[::-1]):
            best = min(best, self._in_order(kinds, order, needed=needed), key=lambda one: one[0])
        start = (0,) * len(kinds)
        goal = min(best[0], self.first + 1) if only_all else best[0]
        if best[0] == self.first or not states or self._bound(kinds, start, self.end) >= goal:
            return best  # nothing can reach further
        reached: dict[tuple[int, ...], int] = {start: self.end}
        last: dict[tuple[int, ...], tuple[int, int]] = {}  # the kind that was put there last, and where its layers end
        frontier = [start]
        left = states
        for _ in in_turn:
            following: dict[tuple[int, ...], None] = {}
            for used in sorted(frontier, key=reached.__getitem__)[: max(left, 0)]:
                position = reached[used]
                left -= 1
                if self._bound(kinds, used, position) >= goal:
                    continue  # not enough, whatever follows
                for index, kind in enumerate(kinds):
                    if used[index] == kind.count:
                        continue
                    low, end = self._put(kind, position, anywhere=needed and index == 0)
                    after = (*used[:index], used[index] + 1, *used[index + 1 :])
                    if low == end or low >= reached.get(after, self.end):
                        continue  # it holds nothing, or no more than in another order
                    reached[after], last[after] = low, (index, end)
                    following[after] = None
                    if low < best[0] and (not needed or after[0]):
                        best = low, self._walked(after, reached, last)
                        if low == self.first:
                            return best
                        goal = min(goal, low)
            frontier = list(following)
        return best

    def _bound(self, kinds: "Sequence[_Kind]", used: tuple[int, ...], position: int) -> int:
        """The devices that are not in `used` reach no lower than this from `position` on.

        Each holds no more layers than it would hold where they are smallest, and all together no more bytes than their
        rooms have.
        """
        if position == self.first:
            return position
        able = free = 0
        for kind, count in zip(kinds, used, strict=True):
            if count < kind.count:
                able += (kind.count - count) * self.bounds.most_before(position, kind.free, kind.on_gpu)
                free += (kind.count - count) * kind.largest
        low = max(self.first, position - able)
        if low == self.first and all(kind.on_gpu for kind in kinds) and free < self.cost(low, position, True):
            return low + 1
        return low

    def _put(self, kind: "_Kind", position: int, *, anywhere: bool) -> tuple[int, int]:
        """The stretch that one of `kind` then holds: from the first to before the second.

        It ends at `position`, which those before have reached; `anywhere`: or above it, where they leave it some.
        """
        ends = range(max(position, self.first + 1), self.end + 1) if anywhere else (position,)
        stretches = ((self.start(end, kind.free, kind.on_gpu), end) for end in ends)
        return min(((low, end) for low, end in stretches if low < end), default=(position, position))

    def _in_order(self, kinds: "Sequence[_Kind]", order: Sequence[int], *, needed: bool) -> _Solution:
        position, steps = self.end, []
        for index in order:
            low = self.start(position, kinds[index].free, kinds[index].on_gpu)
            if low < position:
                steps.append((index, position - low))
                position = low
            if position == self.first:
                break
        if needed and not any(index == 0 for index, _ in steps):
            return self.end, ()
        return position, tuple(reversed(steps))

    def _walked(
        self,
        used: tuple[int, ...],
        reached: dict[tuple[int, ...], int],
        last: dict[tuple[int, ...], tuple[int, int]],
    ) -> tuple[tuple[int, int], ...]:
        """The devices on the way to `used`, the last one put first; each leaves those after it what they hold."""
        steps = []
        taken = self.first
        while any(used):
            index, end = last[used]
            if (low := max(reached[used], taken)) < end:
                steps.append((index, end - low))
            taken = max(taken, end)
            used = (*used[:index], used[index] - 1, *used[index + 1 :])
        return tuple(steps)

    def fewest(
        self, rooms: Sequence[Room], *, at_least: int = 1, needed: Sequence[Room] = (), quick: bool = False
    ) -> Chain | None:
        """The chain of as few of `rooms` as can be that holds every layer from `first` on; None when none does.

        With more room a device holds all that it held before, so that k devices are enough only if the k largest are;
        and if one of `needed` must be among them, the largest of those will do.
        """
        sized = sorted(((self.most(room.free, room.on_gpu), room) for room in rooms), key=_most_first)
        must = (
            min(((self.most(room.free, room.on_gpu), room) for room in needed), key=_most_first)[1] if needed else None
        )
        able, free, lengths = 0, 0, self.end - self.first
        only_gpus = all(room.on_gpu for room in rooms)
        whole = self.cost(self.first, self.end, True) if only_gpus else 0
        for count in range(1, min(MAX_DEVICES, len(sized)) + 1):
            able += sized[count - 1][0]
            free += sized[count - 1][1].free
            if able < lengths or count < at_least or (free < whole and must is None):
                continue
            chosen = [room for _, room in sized[:count]]
            if must is not None and must not in chosen:
                chosen = [*chosen[:-1], must]
            if (chain := self.covering(chosen, must, quick=quick)) is not None:
                return chain
        return None


class _Kind:
    """Devices that hold the same stretches; the least of them stands for all."""

    def __init__(self, rooms: Sequence[Room]) -> None:
        self.count = len(rooms)
        self.free, self.on_gpu = rooms[0].free, rooms[0].on_gpu
        self.largest = max(room.free for room in rooms)


def _most_first(sized: tuple[int, Room]) -> tuple[int, int, str, str]:
    most, room = sized
    return -most, -room.free, room.worker, room.device.id
