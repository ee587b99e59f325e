"""The tiers in their order: the first that has a place gives it."""

from collections.abc import Callable, Iterator
from heapq import nlargest

from stoker.domain.estimation.estimate import MAX_DEVICES
from stoker.domain.placement.cpu import cpu, cpu_several_workers
from stoker.domain.placement.fixed_split import split_on_one_worker, split_on_several_workers
from stoker.domain.placement.one_device import one_device
from stoker.domain.placement.one_worker import one_worker
from stoker.domain.placement.overcommit import overcommitted
from stoker.domain.placement.part_on_cpu import part_on_cpu, part_on_cpu_several_workers
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.several_workers import several_workers
from stoker.domain.placement.types import Tier

TierSearch = Callable[[Problem], Layout | None]

_WHOLE: dict[Tier, TierSearch] = {
    Tier.ONE_DEVICE: one_device,
    Tier.ONE_WORKER: one_worker,
    Tier.SEVERAL_WORKERS: several_workers,
}
_PART: dict[Tier, TierSearch] = {
    Tier.PART_ON_CPU: part_on_cpu,
    Tier.PART_ON_CPU_SEVERAL_WORKERS: part_on_cpu_several_workers,
}
_CPU: dict[Tier, TierSearch] = {Tier.CPU: cpu, Tier.CPU_SEVERAL_WORKERS: cpu_several_workers}


def search(problem: Problem) -> Layout | None:
    """The best layout of the first tier that has one. Workers to avoid are asked only where no other has it."""
    usual = problem.without_avoided() if problem.request.avoid else None
    for tier in _searches(problem):
        for asked in (usual, problem):
            if asked is not None and (found := tier(asked)) is not None:
                return found
    return None


def tiers_of(problem: Problem) -> tuple[Tier, ...]:
    """The tiers that the spec leaves, whether it allows them or not: what is switched off is told, too."""
    on_gpus = problem.on_gpus
    if on_gpus is None:
        return (*_WHOLE, *_PART, *_CPU)
    if on_gpus >= problem.model.layers:
        return tuple(_WHOLE)
    return tuple(_PART) if on_gpus else (Tier.CPU,)


def _searches(problem: Problem) -> Iterator[TierSearch]:
    if problem.request.spec.tensor_split:
        yield from (split_on_one_worker, split_on_several_workers)
    else:
        every = {**_WHOLE, **_PART, **_CPU}
        computes = problem.admission.computing != frozenset()
        for tier in tiers_of(problem):
            if tier in _WHOLE:
                if tier is Tier.ONE_DEVICE or not _lacks_bytes(problem):
                    yield every[tier]
            elif computes:
                yield every[tier]
    yield overcommitted


def _lacks_bytes(problem: Problem) -> bool:
    """Whether as many GPUs as there may be, were they the largest of all, have less than the layers alone take."""
    least, hosts = problem.model.least_bytes, problem.admission.hosts
    together = gpus = 0
    for host in hosts:
        together, gpus = together + host.gpu_bytes, gpus + len(host.gpus)
        if together >= least and gpus <= MAX_DEVICES:
            return False
    return sum(nlargest(MAX_DEVICES, (room.free for host in hosts for room in host.gpus))) < least
