"""The third tier: the whole model on GPUs of several workers, over RPC."""

from collections.abc import Iterator

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.fleet import Host
from stoker.domain.placement.lending import rooms_of_main, rooms_of_peer
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.teams import Search, Team
from stoker.domain.placement.types import Tier


def several_workers(problem: Problem) -> Layout | None:
    """The group of the fewest workers, then of the fewest devices, that holds all layers."""
    if not problem.request.spec.distributed:
        return None
    spans = problem.model.spans(pipelined=True)
    ram = problem.model.ram(0, on_gpu=True, pipelined=True)
    best: Team | None = None
    for hosts in groups(problem):
        search = Search(problem, spans, main_lends=True)
        lending = [host for host in hosts if host.gpus]
        if MAX_DEVICES * max((host.gpus[0].free for host in lending), default=0) < problem.model.least_bytes:
            continue  # not even that many like the largest would do
        able = [host for host in problem.admission.mains_of(lending) if host.has_ram(ram)]
        listed = search.shortlist(lending)
        peers = [search.member(host, rooms_of_peer(host)) for host in listed]
        if len(able) < len(lending):
            listed = search.shortlist(able)
        mains = [search.member(host, rooms_of_main(host, ram)) for host in listed]
        best = fewer(best, search.smallest(mains, peers))
    return None if best is None else Layout(Tier.SEVERAL_WORKERS, best.main.host, best.chain)


def groups(problem: Problem) -> Iterator[tuple[Host, ...]]:
    """The hosts that can work together over RPC: those of one engine, the largest group first."""
    by_engine: dict[tuple[str, str, str], list[Host]] = {}
    for host in problem.admission.hosts:
        if host.group is not None:
            by_engine.setdefault(host.group, []).append(host)
    for hosts in sorted(by_engine.values(), key=len, reverse=True):
        if len(hosts) > 1:
            yield tuple(hosts)


def fewer(one: Team | None, other: Team | None) -> Team | None:
    """The one with fewer workers, then with fewer devices; the first of equals."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda team: (1 + len(team.peers), len(team.chain.rooms)))
