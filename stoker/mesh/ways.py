"""Which way leads from the API to a service of a worker. Pure."""

from typing import NamedTuple

from stoker.domain.base import WorkerName
from stoker.domain.workers import Worker
from stoker.mesh.sockets import is_loopback

LOOPBACK = "127.0.0.1"


class GatewayService(NamedTuple):
    """A service of a worker, behind its gateway at `host`:`port`."""

    host: str
    port: int
    worker: WorkerName
    service: str


Way = tuple[str, int] | GatewayService
"""A service's own address, or the gateway that leads to it."""


def way_to(worker: Worker, port: int, service: str, *, always_by_gateway: bool = False) -> Way | None:
    """How the API reaches `service`, which listens on `port` of the worker's own loopback; None: not at all.

    Of a worker on the API's own machine (its address is a loopback one) that is the port itself. Every other one is
    reached through its gateway, never in the clear.
    """
    if is_loopback(worker.address) and not always_by_gateway:
        return (LOOPBACK, port)
    if worker.mesh_port:
        return GatewayService(worker.address, worker.mesh_port, worker.name, service)
    return None
