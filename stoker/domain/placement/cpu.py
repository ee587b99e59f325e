"""The last tiers: the CPU of one worker, then CPUs (and whatever GPUs there are) of several over RPC."""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import combinations

from stoker.domain.base import WorkerName
from stoker.domain.placement.cover import Chain
from stoker.domain.placement.fleet import Host
from stoker.domain.placement.lending import rooms_of_main, rooms_of_peer
from stoker.domain.placement.members import Member
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.scoring import score
from stoker.domain.placement.several_workers import fewer, groups
from stoker.domain.placement.teams import Search, Team
from stoker.domain.placement.types import Tier

MOST_LENDING = 4
"""Up to so many workers with GPUs, each is looked at with them and without."""

MOST_MAINS = 8
"""Workers that are tried for the main server: those with the most RAM, which hold the most layers beside it."""


def cpu(problem: Problem) -> Layout | None:
    """The CPU with the RAM for the whole model; of several, the strategy's."""
    if problem.on_gpus:
        return None
    layers = problem.model.layers
    ram = problem.model.ram(layers, on_gpu=False)
    able = [host for host in computing(problem) if host.cpu is not None and host.cpu.free >= ram]
    best = min(able, key=lambda host: (-_score(problem, host, ram), host.name), default=None)
    return None if best is None else Layout(Tier.CPU, best, Chain((), (), layers))


def cpu_several_workers(problem: Problem) -> Layout | None:
    """The fewest workers whose CPUs hold the model together; with their GPUs where the CPUs alone are not enough.

    The main server's CPU takes the first layers, as many as its RAM holds, the others lend theirs.
    """
    if problem.on_gpus is not None or not problem.request.spec.distributed:
        return None
    best: Team | None = None
    for hosts in groups(problem):
        for lending in _lending(hosts):
            for main in nsmallest(MOST_MAINS, problem.admission.mains_of(hosts), key=_least_ram):
                best = fewer(best, _around(problem, main, hosts, lending))
                if best is not None and len(hosts) > MOST_MAINS:
                    break
    return None if best is None else Layout(Tier.CPU_SEVERAL_WORKERS, best.main.host, best.chain)


def _lending(hosts: Sequence[Host]) -> Iterator[frozenset[WorkerName]]:
    """Those that use their GPUs too, which costs RAM for a driver: none, any of a few, or all."""
    with_gpus = [host.name for host in hosts if host.gpus]
    if len(with_gpus) > MOST_LENDING:
        yield frozenset()
        yield frozenset(with_gpus)
        return
    for count in range(len(with_gpus) + 1):
        yield from map(frozenset, combinations(with_gpus, count))


def computing(problem: Problem) -> list[Host]:
    """Those that may run the main server, and whose CPU may compute."""
    return [host for host in problem.admission.mains if problem.admission.computes(host)]


def _around(problem: Problem, main: Host, hosts: Sequence[Host], lending: frozenset[WorkerName]) -> Team | None:
    """The smallest team with that main server, whose CPU is filled first; `lending`: those that use their GPUs.

    With one layer less, too: the output alone may take more of a device than with a layer before it.
    """
    if not problem.admission.computes(main):
        return None
    most = layers_in_ram(problem, main, on_gpu=bool(lending))
    found = (_team(problem, main, hosts, lending, first) for first in (most, most - 1) if first > 0)
    return next((team for team in found if team is not None), None)


def _team(
    problem: Problem, main: Host, hosts: Sequence[Host], lending: frozenset[WorkerName], first: int
) -> Team | None:
    model, admission = problem.model, problem.admission
    search = Search(problem, model.spans(pipelined=False, first=first), main_lends=False)
    own = rooms_of_main(main, model.ram(first, on_gpu=True)) if main.name in lending and not main.is_unified else ()
    peers: list[Member] = [
        search.member(host, rooms_of_peer(host, gpus=host.name in lending, cpu=admission.computes(host)))
        for host in hosts
        if host is not main
    ]
    return search.smallest([search.member(main, own)], peers)


def layers_in_ram(problem: Problem, host: Host, *, on_gpu: bool) -> int:
    """The first layers that its RAM holds beside the main server; `on_gpu`: others are on GPUs. 0: none."""
    if host.cpu is None:
        return 0
    low, high = 0, problem.model.layers - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.model.ram(middle, on_gpu=on_gpu) <= host.cpu.free:
            low = middle
        else:
            high = middle - 1
    return low


def _score(problem: Problem, host: Host, ram: int) -> float:
    return score(problem, host, (host.cpu,), ram) if host.cpu is not None else 0.0


def _least_ram(host: Host) -> tuple[int, str]:
    return -(host.cpu.free if host.cpu is not None else 0), host.name
