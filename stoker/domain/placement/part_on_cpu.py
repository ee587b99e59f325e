"""The fourth tiers: the last layers on GPUs, and those before them on the CPU of the main server's worker.

As many layers as can be go to GPUs. That is also what the CPU's RAM asks for: with fewer on GPUs it holds more.
"""

from collections.abc import Sequence

from stoker.domain.placement.cover import Chain
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main, rooms_of_peer
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.scoring import score
from stoker.domain.placement.several_workers import fewer, groups
from stoker.domain.placement.teams import Search, Team, largest
from stoker.domain.placement.types import Tier


def part_on_cpu(problem: Problem) -> Layout | None:
    """The worker that holds the most layers on its GPUs, of those the one with the fewest, and the rest in its RAM."""
    layers = problem.model.layers
    if not _is_asked(problem):
        return None
    best: tuple[int, int, float, str] | None = None
    chosen: tuple[Host, Chain] | None = None
    like = _Like(problem)
    able = [(like.most(host), host) for host in _able(problem)]
    for most, host in sorted(able, key=lambda pair: (-pair[0], pair[1].name)):
        if best is not None and layers - most > best[0]:
            break  # no later one holds as many
        chain = like.chain(host)
        if chain is None:
            continue
        rank = (chain.first, len(chain.rooms), -score(problem, host, chain.rooms, 0), host.name)
        if best is None or rank < best:
            best, chosen = rank, (host, chain)
    return None if chosen is None else Layout(Tier.PART_ON_CPU, *chosen)


class _Like:
    """Hosts whose GPUs hold the same stretches: a fleet has few kinds of them, and each is worked out once."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._deepest = problem.model.spans(pipelined=False, first=1)
        self._most: dict[_Kind, int] = {}
        self._chains: dict[_Kind, tuple[tuple[int, ...], Chain] | None] = {}

    def most(self, host: Host) -> int:
        """No more layers than this on all its GPUs."""
        kind = self._kind(host)
        if (found := self._most.get(kind)) is None:
            most = self._deepest.most
            found = self._most[kind] = sum(most(room.free, True) for room in largest(host.gpus))
        return found

    def chain(self, host: Host) -> Chain | None:
        """`deepest_chain`. GPUs are sorted by size: what one's third holds is what the other's third holds."""
        if host.is_unified:
            return deepest_chain(self._problem, host)
        kind = self._kind(host)
        if kind not in self._chains:
            found = _most_on_gpus(self._problem, host)
            places = {room: index for index, room in enumerate(host.gpus)}
            self._chains[kind] = None if found is None else (tuple(places[room] for room in found.rooms), found)
        known = self._chains[kind]
        if known is None:
            return None
        rooms, chain = known
        if not host.has_ram(self._problem.model.ram(chain.first, on_gpu=True)):
            return None
        return chain._replace(rooms=tuple([host.gpus[index] for index in rooms]))

    def _kind(self, host: Host) -> "_Kind":
        level = self._deepest.bounds.level
        return tuple([level(room.free, True) for room in host.gpus])


_Kind = tuple[int, ...]


def deepest_chain(problem: Problem, host: Host) -> Chain | None:
    """As many layers as fit on the host's GPUs, on the fewest of them, when its CPU has the rest."""
    model, asked = problem.model, problem.on_gpus
    if host.is_unified:
        firsts: Sequence[int] = range(1, model.layers) if asked is None else (model.layers - asked,)
        found = (_from(problem, first, rooms_of_main(host, model.ram(first, on_gpu=True))) for first in firsts)
        return next((chain for chain in found if chain is not None), None)
    chain = _most_on_gpus(problem, host)
    return chain if chain is not None and host.has_ram(model.ram(chain.first, on_gpu=True)) else None


def _most_on_gpus(problem: Problem, host: Host) -> Chain | None:
    """The same, whatever RAM its CPU has."""
    model, asked = problem.model, problem.on_gpus
    if asked is not None:
        first = model.layers - asked
    else:
        first = model.spans(pipelined=False, first=1).furthest(largest(host.gpus)).first
    return _from(problem, first, host.gpus)


def part_on_cpu_several_workers(problem: Problem) -> Layout | None:
    """The group with the most layers on GPUs, of those the smallest, and the rest in its main server's RAM."""
    if not _is_asked(problem) or not problem.request.spec.distributed:
        return None
    best: tuple[int, Team] | None = None
    for hosts in groups(problem):
        for first in _firsts(problem, hosts):
            if best is not None and first > best[0]:
                break
            team = _team(problem, hosts, first)
            if team is not None:
                if best is None or first < best[0] or fewer(best[1], team) is team:
                    best = first, team
                break
    return None if best is None else Layout(Tier.PART_ON_CPU_SEVERAL_WORKERS, best[1].main.host, best[1].chain)


def _firsts(problem: Problem, hosts: Sequence[Host]) -> Sequence[int]:
    """The lowest layer on GPUs: as low as they reach, or higher where a main server would take of their memory."""
    model, asked = problem.model, problem.on_gpus
    if asked is not None:
        return (model.layers - asked,)
    lent = [room for host in hosts for room in rooms_of_peer(host)]
    first = model.spans(pipelined=False, first=1).furthest(largest(lent)).first
    return range(first, model.layers if any(host.is_unified for host in hosts) else min(first + 1, model.layers))


def _team(problem: Problem, hosts: Sequence[Host], first: int) -> Team | None:
    model = problem.model
    ram = model.ram(first, on_gpu=True)
    able = [host for host in problem.admission.mains_of(hosts) if _computes(problem, host) and host.has_ram(ram)]
    search = Search(problem, model.spans(pipelined=False, first=first), main_lends=False)
    peers = [search.member(host, rooms_of_peer(host)) for host in search.shortlist(hosts)]
    mains = [search.member(host, rooms_of_main(host, ram)) for host in search.shortlist(able)]
    return search.smallest(mains, peers)


def _is_asked(problem: Problem) -> bool:
    return problem.on_gpus is None or 0 < problem.on_gpus < problem.model.layers


def _able(problem: Problem) -> list[Host]:
    return [host for host in problem.admission.mains if host.gpus and _computes(problem, host)]


def _computes(problem: Problem, host: Host) -> bool:
    """A CPU whose RAM is not offered computes nothing."""
    return host.cpu is not None and problem.admission.computes(host)


def _from(problem: Problem, first: int, rooms: Sequence[Room]) -> Chain | None:
    if first >= problem.model.layers:
        return None
    return problem.model.spans(pipelined=False, first=first).fewest(rooms)
