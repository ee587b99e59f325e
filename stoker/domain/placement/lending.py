"""What a worker gives to a group: its role decides how much of its memory is left for layers."""

from stoker.domain.estimation.estimate import DRIVER_OVERHEAD
from stoker.domain.placement.fleet import Host, Room
from stoker.domain.units import MIB

RPC_SERVER_RAM = 64 * MIB
"""RAM of a process that lends devices, and of the tensors on their way to them; 7 MiB were measured at rest."""


def rpc_ram(*, on_gpu: bool) -> int:
    """Bytes of RAM that a worker needs to lend devices; `on_gpu`: a GPU is among them, and so its driver's."""
    return RPC_SERVER_RAM + (DRIVER_OVERHEAD if on_gpu else 0)


def rooms_of_main(host: Host, ram: int) -> tuple[Room, ...]:
    """Its GPUs when `ram` bytes go to the main server's process; none where it has not so much."""
    if not host.has_ram(ram):
        return ()
    return _beside(host, ram) if host.is_unified else host.gpus


def rooms_of_peer(host: Host, *, gpus: bool = True, cpu: bool = False) -> tuple[Room, ...]:
    """Its GPUs, its CPU, or both, when it lends them over RPC; none where it has not the RAM for that.

    Of unified memory the GPU has all that the CPU would have, and the CPU is left alone.
    """
    lent = host.gpus if gpus else ()
    ram = rpc_ram(on_gpu=bool(lent))
    if not host.has_ram(ram):
        return ()
    if lent and host.is_unified:
        return _beside(host, ram)
    if cpu and host.cpu is not None and host.cpu.free > ram:
        return (*lent, host.cpu._replace(free=host.cpu.free - ram))
    return lent


def _beside(host: Host, ram: int) -> tuple[Room, ...]:
    """The GPUs of unified memory, of which `ram` bytes are taken already."""
    left = host.cpu.free - ram if host.cpu is not None else 0
    return tuple(
        room._replace(free=min(room.free, left)) if room.device.unified else room
        for room in host.gpus
        if not room.device.unified or left > 0
    )
