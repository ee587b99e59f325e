"""Where the administrator says how many layers each device holds: only the devices are to be found.

What each part of the split takes is known, so a room is no more than the parts that it could hold. Some rooms hold all
parts when, for every i, at least i of them hold the i-th largest part (Hall's theorem, for sizes); the largest part may
then take any room that holds it, and so on down. So a worker is a short list of counts (`_Giver.able`), and a group is
the few workers whose counts add up.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import accumulate, pairwise
from typing import NamedTuple

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.cover import Chain
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main, rooms_of_peer
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.scoring import score
from stoker.domain.placement.several_workers import groups
from stoker.domain.placement.types import Tier

MOST_TRIED = 300
"""Workers that are added to a set in one search; past them, whatever set is enough is taken."""

MOST_MAINS = 32
"""Unlike workers that are tried for the main server: those that hold the model's file, and the most parts."""

MOST_KINDS = 8
"""For each part, workers of so many kinds are looked at: those with the most devices that hold it."""


@dataclass(frozen=True)
class Split:
    """The parts of a split, and what they take."""

    counts: tuple[int, ...]  # layers of each part
    first: int  # layers that the main server's CPU keeps
    sizes: tuple[int, ...]  # bytes of each part on its GPU
    ram: int  # bytes of the main server's RAM
    named: tuple[tuple[str, str], ...]  # the device of each part; empty: any may hold any
    order: tuple[int, ...] = field(init=False)  # indices of the parts, the largest first
    sorted: tuple[int, ...] = field(init=False)  # `sizes` in that order

    def __post_init__(self) -> None:
        """Sorts them."""
        order = tuple(sorted(range(len(self.sizes)), key=lambda index: (-self.sizes[index], index)))
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "sorted", tuple(self.sizes[index] for index in order))

    @classmethod
    def of(cls, problem: Problem) -> "Split | None":
        """What the spec asks for; None where it has more layers than the model, or more devices than llama.cpp."""
        spec, model = problem.request.spec, problem.model
        counts = spec.tensor_split
        first = model.layers - sum(counts)
        if first < 0 or not counts or len(counts) > MAX_DEVICES:
            return None
        pipelined = len(counts) > 1 and first == 0
        bounds = pairwise(accumulate(counts, initial=first))
        sizes = [model.costs.column(end, on_gpu=True, pipelined=pipelined)[start] for start, end in bounds]
        ram = model.ram(first, on_gpu=True, pipelined=pipelined)
        return cls(counts, first, tuple(sizes), ram, spec.devices if len(spec.devices) == len(counts) else ())

    def able(self, rooms: Sequence[Room]) -> tuple[int, ...]:
        """How many of `rooms` hold the largest part, the second largest, and so on."""
        smallest_first = self.sorted[::-1]
        gained = [0] * len(self.sorted)  # rooms that hold that part, and none larger
        for room in rooms:
            if held := bisect_right(smallest_first, room.free):
                gained[-held] += 1
        return tuple(accumulate(gained))


def split_on_one_worker(problem: Problem) -> Layout | None:
    """Devices of one worker for `tensor_split`: the strategy's worker, if several have them.

    In the order of `devices` where those are named one for each part; else any device may hold any part.
    """
    split = Split.of(problem)
    if split is None:
        return None
    tier = Tier.PART_ON_CPU if split.first else Tier.ONE_WORKER if len(split.counts) > 1 else Tier.ONE_DEVICE
    best: tuple[float, str] | None = None
    found: Layout | None = None
    for host in mains_of(problem, split, problem.admission.hosts):
        if len(host.gpus) < len(split.counts) or host.gpus[0].free < split.sorted[0]:
            continue
        rooms = rooms_of_main(host, split.ram)
        chain = _matched(problem, split, rooms, "")
        if chain is None:
            continue
        rank = -score(problem, host, chain.rooms, sum(split.sizes)), host.name
        if best is None or rank < best:
            best, found = rank, Layout(tier, host, chain)
    return found


def split_on_several_workers(problem: Problem) -> Layout | None:
    """The same of several workers: of the fewest."""
    split = Split.of(problem)
    if split is None or not problem.request.spec.distributed:
        return None
    best: Layout | None = None
    for hosts in groups(problem):
        if max((host.gpus[0].free for host in hosts if host.gpus), default=0) < split.sorted[0]:
            continue
        found = _Group(problem, split, hosts).smallest()
        if found is not None and (best is None or found.hosts < best.hosts):
            best = found
    return best


def mains_of(problem: Problem, split: Split, hosts: Sequence[Host]) -> list[Host]:
    """Those of `hosts` that may run the main server: a CPU whose RAM is not offered keeps no layers."""
    admission = problem.admission
    return [
        host
        for host in admission.mains_of(hosts)
        if host.has_ram(split.ram) and (not split.first or (host.cpu is not None and admission.computes(host)))
    ]


class _Giver(NamedTuple):
    """One worker in one role, with the rooms that hold at least the smallest part."""

    host: Host
    rooms: tuple[Room, ...]
    able: tuple[int, ...]  # see Split.able
    rank: tuple[bool, float, str]  # the lower, the more preferred among like ones


class _Group:
    """The search among the workers of one engine."""

    def __init__(self, problem: Problem, split: Split, hosts: Sequence[Host]) -> None:
        self._problem, self._split = problem, split
        self._sign = 1 if problem.is_packed else -1
        self._needed = tuple(range(1, 1 + len(split.counts)))
        peers = (self._giver(host, rooms_of_peer(host)) for host in hosts)
        self._peers = {peer.host.name: peer for peer in peers if peer.rooms}
        own = (self._giver(host, rooms_of_main(host, split.ram)) for host in mains_of(problem, split, hosts))
        self._mains = [main for main in own if main.rooms or split.first]
        self._total = _added([peer.able for peer in self._peers.values()], len(split.counts))
        self._left = MOST_TRIED

    def smallest(self) -> Layout | None:
        """The smallest set that is found, with the main server's worker; None where there is none."""
        mains = [main for main in self._mains if not any(self._lacking(main, self._others(main)))]
        mains.sort(key=lambda main: (main.rank[0], -sum(main.able), main.rank))
        if self._split.named:  # each of these workers has a device that is named
            layouts = (self._layout(main, [*self._peers_of(main)]) for main in mains)
            return next((layout for layout in layouts if layout is not None), None)
        if not mains:
            return None
        peers = self._shortlist()
        most = self._most_behind(peers)
        for size in range(1, len(self._needed) + 1):
            for main in self._alike_once(mains)[:MOST_MAINS]:
                chosen = self._with_peers(main, peers, most, size)
                if chosen is not None and (layout := self._layout(main, chosen)) is not None:
                    return layout
        return self._any(mains[0])

    def _giver(self, host: Host, rooms: Sequence[Room]) -> _Giver:
        least = self._split.sorted[-1]
        fit = tuple(room for room in rooms if room.free >= least)
        left = host.gpu_bytes / (host.gpu_size or 1) * self._sign
        unheld = not (host.held_files and self._problem.holds_file(host))
        return _Giver(host, fit, self._split.able(fit), (unheld, left, host.name))

    def _peers_of(self, main: _Giver) -> list[_Giver]:
        return [peer for peer in self._peers.values() if peer.host is not main.host]

    def _others(self, main: _Giver) -> tuple[int, ...]:
        """What all workers but that one could lend."""
        own = self._peers.get(main.host.name)
        return self._total if own is None else _less(self._total, own.able)

    def _lacking(self, main: _Giver, lent: Sequence[int]) -> tuple[int, ...]:
        return tuple([max(0, need - own - more) for need, own, more in zip(self._needed, main.able, lent, strict=True)])

    def _alike_once(self, mains: Sequence[_Giver]) -> list[_Giver]:
        """Of each kind of main the first; those that lend unlike things are not of one kind."""
        kinds: dict[object, _Giver] = {}
        for main in mains:
            lent = self._peers.get(main.host.name)
            kinds.setdefault((main.able, lent.able if lent is not None else ()), main)
        return list(kinds.values())

    def _shortlist(self) -> list[_Giver]:
        """For each part those that hold it best, and of many alike the preferred; those that hold the most first."""
        alike: dict[tuple[int, ...], list[_Giver]] = {}
        for peer in sorted(self._peers.values(), key=lambda one: one.rank):
            found = alike.setdefault(peer.able, [])
            if len(found) <= len(self._needed):  # one more than can be in a set: one of them may be the main server
                found.append(peer)
        kinds = {
            kind: None
            for part in range(len(self._needed))
            for kind in nlargest(MOST_KINDS, alike, key=lambda kind: (kind[part], sum(kind), kind))
        }
        return [peer for kind in sorted(kinds, key=lambda kind: (-sum(kind), kind)) for peer in alike[kind]]

    def _most_behind(self, peers: Sequence[_Giver]) -> list[tuple[int, ...]]:
        """For each of `peers`, the most that any one from it on has, part by part."""
        best = (0,) * len(self._needed)
        most = [best]
        for peer in reversed(peers):
            best = tuple(map(max, best, peer.able))
            most.append(best)
        return most[::-1]

    def _with_peers(
        self, main: _Giver, peers: Sequence[_Giver], most: Sequence[tuple[int, ...]], count: int
    ) -> list[_Giver] | None:
        """At most `count` of `peers` that are enough beside `main`; None where none are found."""

        def chosen(lacking: Sequence[int], start: int, left: int) -> list[_Giver] | None:
            if not any(lacking):
                return []
            tried: set[tuple[int, ...]] = set()
            for index in range(start, len(peers)):
                if not left or any(need > left * able for need, able in zip(lacking, most[index], strict=True)):
                    return None  # no later ones are enough
                peer = peers[index]
                if peer.host is main.host or peer.able in tried:
                    continue
                if self._left <= 0:
                    return None
                self._left -= 1
                tried.add(peer.able)
                rest = [max(0, need - has) for need, has in zip(lacking, peer.able, strict=True)]
                found = chosen(rest, index + 1, left - 1)
                if found is not None:
                    return [peer, *found]
            return None

        return chosen(self._lacking(main, (0,) * len(self._needed)), 0, count)

    def _any(self, main: _Giver) -> Layout | None:
        """The set to which each time the worker is added that adds the most; there is one."""
        chosen: list[_Giver] = []
        able = (0,) * len(self._needed)
        others = self._peers_of(main)
        while any(lacking := self._lacking(main, able)):
            best = max(others, key=lambda peer: (sum(map(min, lacking, peer.able)), peer.host.name))
            others.remove(best)
            chosen.append(best)
            able = _added([able, best.able], len(able))
        return self._layout(main, chosen)

    def _layout(self, main: _Giver, peers: Sequence[_Giver]) -> Layout | None:
        split = self._split
        rooms = [*main.rooms, *(room for peer in peers for room in peer.rooms)]
        chain = _matched(self._problem, split, rooms, "" if split.first else main.host.name)
        tier = Tier.PART_ON_CPU_SEVERAL_WORKERS if split.first else Tier.SEVERAL_WORKERS
        return None if chain is None else Layout(tier, main.host, chain)


def _matched(problem: Problem, split: Split, rooms: Sequence[Room], main: str) -> Chain | None:
    """A room for each part: each in the place where it is named, or the strategy's for the largest part first.

    One of the worker `main` must be among them, if it is not empty.
    """
    if split.named:
        by_name = {(room.worker, room.device.id): room for room in rooms}
        named = [by_name[name] for name in split.named if name in by_name]
        fits = len(named) == len(split.sizes) and all(
            room.free >= size for room, size in zip(named, split.sizes, strict=True)
        )
        fits = fits and (not main or any(room.worker == main for room in named))
        return Chain(tuple(named), split.counts, split.first) if fits else None
    left = sorted(rooms, key=lambda room: (-room.free, room.worker, room.device.id))
    placed: dict[int, Room] = {}
    for index in split.order:
        fit = [room for room in left if room.free >= split.sizes[index]]
        if main and len(placed) == len(split.order) - 1 and not any(room.worker == main for room in placed.values()):
            fit = [room for room in fit if room.worker == main]  # the smallest part is what any of its rooms may hold
        if not fit:
            return None
        placed[index] = fit[-1 if problem.is_packed else 0]
        left.remove(placed[index])
    return Chain(tuple(placed[index] for index in range(len(split.sizes))), split.counts, split.first)


def _added(counts: Sequence[tuple[int, ...]], length: int) -> tuple[int, ...]:
    return tuple(map(sum, zip(*counts, strict=True))) if counts else (0,) * length


def _less(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([most - less for most, less in zip(one, other, strict=True)])
