"""The fewest workers that hold a stretch of layers together, and of them those with the fewest devices.

Which workers is a search, since one with many small devices and one with few large ones cannot be compared. It is kept
short by what a worker holds at most (`Spans.most`, summed over its devices): workers are tried in that order, like ones
once, and no further than the best that is left could still be enough. Where as many workers as that bound demands are
enough, as on nearly every fleet, the first team is the answer, and proved.
"""

from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from itertools import accumulate, islice
from operator import itemgetter
from typing import NamedTuple

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.counting import teams_by_count
from stoker.domain.placement.cover import Chain, Spans
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.members import Member
from stoker.domain.placement.one_worker import tightened
from stoker.domain.placement.problem import Problem

MOST_OF_A_SIZE = 60
MOST_TRIED = 200
"""Teams of one size, and of all, that are tried: then the best of that size is taken, or a larger size looked at."""

MOST_THOROUGH = 8
"""With more workers than that, a team is tried with its devices in two orders only, the largest first and last."""

MOST_UNIFIED = 8
"""Workers of unified memory that are tried as the main server's: it takes of the memory that they lend."""

MOST_SWAPPED = 8
"""Workers that are tried in the place of another, for what is preferred among equally small teams."""


MOST_ALIKE = 2 * MAX_DEVICES
"""Workers that are looked at of those whose devices hold equally many layers: more of them cannot be in one team."""


class Team(NamedTuple):
    """The worker of the main server, those that lend it devices, and which of them hold what."""

    main: Member
    peers: tuple[Member, ...]
    chain: Chain


class Search:
    """One search over members of one engine group."""

    def __init__(self, problem: Problem, spans: Spans, *, main_lends: bool) -> None:
        """`main_lends`: one of the main's own devices must hold a layer; else its CPU does."""
        self._problem, self._spans, self._main_lends = problem, spans, main_lends
        self._layers = spans.end - spans.first
        self._is_large, self._is_packed = False, problem.is_packed

    def shortlist(self, hosts: Sequence[Host]) -> list[Host]:
        """Those of `hosts` that matter: the owners of the largest devices, and of many alike the preferred.

        Alike are those whose devices hold equally many layers at most.
        """
        if len(hosts) <= MOST_ALIKE:
            return list(hosts)
        alike: dict[tuple[int, ...], list[Host]] = {}
        most = self._spans.most
        for host in hosts:
            alike.setdefault(tuple([most(room.free, True) for room in host.gpus]), []).append(host)
        rooms = ((room.free, index) for index, host in enumerate(hosts) for room in host.gpus[:MAX_DEVICES])
        kept = {hosts[index].name: hosts[index] for _, index in nlargest(MAX_DEVICES, rooms)}
        for kind, found in alike.items():
            if any(kind) or not self._main_lends:
                preferred = found if len(found) <= MOST_ALIKE else nsmallest(MOST_ALIKE, found, key=self._preference)
                kept.update((host.name, host) for host in preferred)
        return list(kept.values())

    def _preference(self, host: Host) -> tuple[bool, float, int, str]:
        left, size, name = host.preference
        unheld = not host.held_files or not self._problem.holds_file(host)
        return (unheld, left, size, name) if self._is_packed else (unheld, -left, -size, name)

    def member(self, host: Host, rooms: Sequence[Room]) -> Member:
        """`host` with those of `rooms` that hold a layer, at most as many as there may be devices."""
        most = self._spans.most
        sized = sorted(
            ((layers, room) for room in rooms if (layers := most(room.free, room.on_gpu))), key=_size, reverse=True
        )[:MAX_DEVICES]
        able = sum(layers for layers, _ in sized)
        unheld, left, size, _ = self._preference(host)
        order = (-able, unheld, left, size)
        return Member(host, tuple(sized), order)

    def smallest(self, mains: Sequence[Member], peers: Sequence[Member], *, at_least: int = 2) -> Team | None:
        """The team of the fewest workers (`at_least` so many), then of the fewest devices; None when none will do.

        A host may be among both, with other rooms in each role.
        """
        peers = sorted((peer for peer in peers if peer.sized), key=_rank)
        mains = sorted((main for main in mains if main.sized or not self._main_lends), key=_rank)
        largest = self._of_largest(mains, peers)
        if largest is None:
            return None
        self._is_large = len(peers) > MOST_THOROUGH
        sums = list(accumulate((peer.most for peer in peers[:MAX_DEVICES]), initial=0))
        left = MOST_TRIED
        for size in range(at_least, 1 + len(largest.peers)):
            best: Team | None = None
            for team in islice(self._teams(mains, peers, size, sums), min(left, MOST_OF_A_SIZE)):
                left -= 1
                if team is None or (best is not None and len(team.chain.rooms) >= len(best.chain.rooms)):
                    continue
                best = team
                if len(team.chain.rooms) <= len(largest.chain.rooms):
                    break
            if self._is_large and (best is None or len(best.chain.rooms) > len(largest.chain.rooms)):
                best = self._counted(mains, peers, size, best)
            if best is not None:
                return self._preferred(best, mains, peers)
        return self._preferred(largest, mains, peers)

    def _counted(self, mains: Sequence[Member], peers: Sequence[Member], size: int, best: Team | None) -> Team | None:
        """A team with fewer devices than `best`, where counting layers names one that really holds them."""
        for main, others in teams_by_count(mains, peers, size, self._layers, main_lends=self._main_lends):
            team = self.formed(main, others)
            if team is not None and (best is None or len(team.chain.rooms) < len(best.chain.rooms)):
                return team
        return best

    def _of_largest(self, mains: Sequence[Member], peers: Sequence[Member]) -> Team | None:
        """Of the largest devices, wherever they are: no team has fewer devices, and without this there is none.

        Any main does as well as the one with the largest device, but where the main server takes of a GPU's memory.
        """
        usual = [main for main in mains if not main.host.is_unified]
        if self._main_lends and usual:
            usual = [max(usual, key=lambda one: _size(one.sized[0]))]
        unified = [main for main in mains if main.host.is_unified]
        found = (self._around(main, peers) for main in (*usual[:1], *unified[:MOST_UNIFIED]))
        teams = [team for team in found if team is not None]
        return min(teams, key=lambda team: (len(team.chain.rooms), len(team.peers)), default=None)

    def _around(self, main: Member, peers: Sequence[Member]) -> Team | None:
        """The team of that main and the largest devices of `peers`."""
        lent = [(layers, room) for peer in peers if peer.host.name != main.host.name for layers, room in peer.sized]
        rooms = [*main.rooms, *(room for _, room in nlargest(MAX_DEVICES, lent, key=_size))]
        chain = self._spans.fewest(rooms, needed=main.rooms if self._main_lends else ())
        if chain is None:
            return None
        names = dict.fromkeys(room.worker for room in chain.rooms if room.worker != main.host.name)
        return Team(main, tuple(peer for peer in peers if peer.host.name in names), chain)

    def _teams(
        self, mains: Sequence[Member], peers: Sequence[Member], size: int, sums: Sequence[int]
    ) -> Iterator[Team | None]:
        """Every team of that size that may be enough, like ones once; None for one that is not."""
        tried: set[object] = set()
        lending = {peer.host.name: peer for peer in peers}
        for main in mains:
            if main.most + sums[size - 1] < self._layers:
                break  # no later one holds more
            kind = self._kind(main), self._kind(lending[main.host.name]) if main.host.name in lending else None
            if kind in tried:
                continue
            tried.add(kind)
            for others in self._others(peers, size - 1, self._layers - main.most, main.host, 0):
                yield self.formed(main, others)

    def _others(
        self, peers: Sequence[Member], count: int, layers: int, main: Host, start: int
    ) -> Iterator[tuple[Member, ...]]:
        """So many of `peers` from `start` on that may hold `layers` together."""
        if not count:
            yield ()
            return
        tried: set[object] = set()
        for index in range(start, len(peers) - count + 1):
            peer = peers[index]
            if peer.most * count < layers:
                return  # no later one holds more
            if peer.host.name == main.name:
                continue
            kind = self._kind(peer)
            if kind in tried:
                continue
            tried.add(kind)
            for others in self._others(peers, count - 1, layers - peer.most, main, index + 1):
                yield (peer, *others)

    def _kind(self, member: Member) -> object:
        """Members of one kind hold the same stretches."""
        return tuple(sorted(self._spans.level(room.free, room.on_gpu) for room in member.rooms))

    def formed(self, main: Member, peers: Sequence[Member]) -> Team | None:
        """These workers as a team with the fewest devices, or None where all of them are not enough."""
        rooms = [*main.rooms, *(room for peer in peers for room in peer.rooms)]
        chain = self._spans.fewest(rooms, needed=main.rooms if self._main_lends else (), quick=self._is_large)
        return None if chain is None else Team(main, tuple(peers), chain)

    # --- among equally small teams -----------------------------------------------------------------------------------

    def _preferred(self, team: Team, mains: Sequence[Member], peers: Sequence[Member]) -> Team:
        if not self._problem.holds_file(team.main.host):
            holders = [main for main in mains if main.host.held_files and self._problem.holds_file(main.host)]
            for main in holders[:MOST_SWAPPED]:
                if (swapped := self._with_main(team, main)) is not None:
                    team = swapped
                    break
        if self._problem.is_packed:
            team = self._packed(team, peers)
        return team

    def _with_main(self, team: Team, main: Member) -> Team | None:
        """A team no larger with `main` as its main: for one of its peers, or for the main that it has."""
        names = [peer.host.name for peer in team.peers]
        lists = [team.peers] if main.host.name not in names else []
        lists += [
            tuple(peer for peer in team.peers if peer.host.name not in (name, main.host.name))
            for name in (names if main.host.name not in names else [main.host.name])
        ]
        for others in lists:
            found = self.formed(main, others)
            if found is not None and len(found.chain.rooms) <= len(team.chain.rooms):
                return found
        return None

    def _packed(self, team: Team, peers: Sequence[Member]) -> Team:
        """The same size with tighter peers, and with the tightest devices of them all."""
        members = list(team.peers)
        for index, member in enumerate(members):
            names = {team.main.host.name, *(one.host.name for one in members)}
            tighter = sorted(
                (peer for peer in peers if peer.host.name not in names and peer.free < member.free),
                key=lambda peer: peer.free,
            )
            enough = [peer for peer in tighter if peer.most >= sum(_layers_on(team.chain, member.host.name))]
            for peer in enough[:MOST_SWAPPED]:
                found = self.formed(team.main, [*members[:index], peer, *members[index + 1 :]])
                if found is not None and len(found.chain.rooms) <= len(team.chain.rooms):
                    team, members[index] = found, peer
                    break
        rooms = tuple(room for member in (team.main, *team.peers) for room in member.rooms)
        needed = next((room for room in team.chain.rooms if room.worker == team.main.host.name), None)
        chain = tightened(self._spans, team.chain, rooms, needed if self._main_lends else None, quick=self._is_large)
        return team._replace(chain=chain)


def largest(rooms: Sequence[Room]) -> list[Room]:
    """As many of these GPUs as there may be devices: those with the most room."""
    return list(rooms) if len(rooms) <= MAX_DEVICES else nlargest(MAX_DEVICES, rooms, key=_free)


_free = itemgetter(0)  # of a Room


def _layers_on(chain: Chain, worker: str) -> Iterator[int]:
    return (layers for room, layers in zip(chain.rooms, chain.counts, strict=True) if room.worker == worker)


def _size(one: tuple[int, Room]) -> tuple[int, int]:
    layers, room = one
    return layers, room.free


def _rank(member: Member) -> tuple[tuple[float, ...], str]:
    return member.order, member.host.name
