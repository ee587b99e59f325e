"""The first tier: the whole model on one GPU."""

from stoker.domain.placement.cover import Chain
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.placement.lending import rooms_of_main
from stoker.domain.placement.problem import Layout, Problem
from stoker.domain.placement.scoring import score_of_one
from stoker.domain.placement.types import Tier


def one_device(problem: Problem) -> Layout | None:
    """The best GPU that holds all layers, on a worker with the RAM for the rest."""
    layers = problem.model.layers
    needed = problem.model.costs.column(layers, on_gpu=True, pipelined=False)[0]
    ram = problem.model.ram(0, on_gpu=True)
    packed = problem.is_packed
    best: tuple[float, Host, Room] | None = None
    for host in problem.admission.mains:
        free, size = host.emptiest
        if free < needed:
            continue
        if size and best is not None and not packed:  # most often, and of a large fleet for nearly every host
            found = (free - needed) / size
            if found < best[0] or (found == best[0] and host.name > best[1].name):
                continue
        rooms = [room for room in rooms_of_main(host, ram) if room.free >= needed]
        if host.has_equal_gpus:  # of devices of one size the emptiest or the fullest is the host's best
            rooms = rooms[-1:] if packed else rooms[:1]
        for room in rooms:
            found = score_of_one(problem, host, room, needed)
            if best is None or found > best[0] or (found == best[0] and _name(room) < _name(best[2])):
                best = found, host, room
    if best is None:
        return None
    _, host, room = best
    return Layout(Tier.ONE_DEVICE, host, Chain((room,), (layers,), 0))


def _name(room: Room) -> tuple[str, str]:
    return room.worker, room.device.id
