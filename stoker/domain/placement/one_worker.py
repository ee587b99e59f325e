"""The second tier: the whole model on several GPUs of one worker."""

from operator import itemgetter

from stoker.domain.placement.cover import Chain, Spans
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.scoring import score
from stoker.domain.placement.types import Tier


def one_worker(problem: Problem) -> Layout | None:
    """The worker that holds all layers on the fewest GPUs; of several, the strategy's."""
    model = problem.model
    spans = model.spans(pipelined=True)
    ram = model.ram(0, on_gpu=True, pipelined=True)
    least = model.least_bytes
    best: tuple[int, float, str] | None = None
    chosen: tuple[Host, tuple[Room, ...], Chain] | None = None
    for host in problem.admission.mains:
        if len(host.gpus) < 2 or host.gpu_bytes < least:
            continue
        rooms = rooms_of_main(host, ram)
        chain = spans.fewest(rooms, at_least=2)
        if chain is None:
            continue
        rank = (len(chain.rooms), -score(problem, host, chain.rooms, least), host.name)
        if best is None or rank < best:
            best, chosen = rank, (host, rooms, chain)
    if chosen is None:
        return None
    host, rooms, chain = chosen
    if problem.is_packed:
        chain = tightened(spans, chain, rooms)
    return Layout(Tier.ONE_WORKER, host, chain)


def tightened(
    spans: Spans, chain: Chain, rooms: tuple[Room, ...], needed: Room | None = None, *, quick: bool = False
) -> Chain:
    """The same number of `rooms`, with smaller ones in the place of larger ones as far as all layers still fit."""
    used = sorted(chain.rooms, key=lambda room: -room.free)
    for index, large in enumerate(used):
        if large is needed:
            continue
        spare = sorted((room for room in rooms if room.free < large.free and room not in used), key=_free)
        low, high = 0, len(spare)
        while low < high:  # a larger one does what a smaller one does
            middle = (low + high) // 2
            tried = spans.covering([*used[:index], spare[middle], *used[index + 1 :]], needed, quick=quick)
            if tried is None:
                low = middle + 1
            else:
                high, best = middle, (tried, spare[middle])
        if low < len(spare):
            chain, used[index] = best
    return chain


_free = itemgetter(0)  # of a Room
