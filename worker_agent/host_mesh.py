"""This host as a member of groups that span several. Satisfies `activities.ports.HostMesh`."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from activities.ports import MeshPeer
from stoker.domain.links import WorkerLink
from stoker.domain.workers import Engine
from stoker.mesh.identity import MeshError
from worker_agent.mesh.probe import probe_link

log = structlog.get_logger()


class GatewayMesh:
    """Speaks to the others through gateways: its own, which others reach, and theirs."""

    def __init__(
        self, folder: Path, engine: Engine, gateway: Callable[[], MeshPeer], clock: Callable[[], datetime]
    ) -> None:
        """`folder`: of this host's identity. `gateway`: its own now; port 0: none. `clock`: the moment in UTC."""
        self._folder, self._engine, self._gateway, self._clock = folder, engine, gateway, clock

    @property
    def engine(self) -> Engine:
        """See `HostMesh`."""
        return self._engine

    @property
    def gateway(self) -> MeshPeer:
        """See `HostMesh`."""
        return self._gateway()

    async def check(self, peer: MeshPeer) -> WorkerLink:
        """See `HostMesh`."""
        ends = {"worker": self._gateway().worker, "peer": peer.worker, "checked_at": self._clock()}
        if not peer.port:
            return WorkerLink(**ends, problem=f"{peer.worker} has no gateway")
        try:
            found = await probe_link(self._folder, peer.worker, peer.host, peer.port)
        except MeshError as error:
            log.warning("link_check_failed", peer=peer.worker, error=str(error))
            return WorkerLink(**ends, problem=str(error))
        log.info("link_checked", peer=peer.worker, seconds=found.round_trip_seconds, rate=found.bytes_per_second)
        return WorkerLink(**ends, round_trip_seconds=found.round_trip_seconds, bytes_per_second=found.bytes_per_second)
