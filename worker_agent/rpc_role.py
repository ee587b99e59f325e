"""ggml-rpc-server: this host's devices, for one main server.

It has no authentication, so it listens on loopback alone, and the gateway lets in nobody but the main server's host.
"""

import asyncio
import re
import socket
from collections.abc import Sequence

from activities.ports import ProcessKey, ProcessSpec, ProcessStartError, RpcServerSpec
from stoker.domain.llamacpp import rpc_server_arguments
from worker_agent.engines import EngineProgram
from worker_agent.exits import explain_end
from worker_agent.mesh.grants import Grants, rpc_service
from worker_agent.processes import Readiness
from worker_agent.readiness import Listens
from worker_agent.records import ProcessExit, ProcessRecord
from worker_agent.roles import Launch

_LOOK_SECONDS = 0.5
_PORT_TAKEN = "Failed to create server socket"  # all that a ggml-rpc-server says of it; it exits with 0 then
_COMPLAINT = re.compile(r"Failed to|Invalid|Unknown|error:|\S+\.(?:c|cpp|cu|h|hpp|m):\d+: ")


class RpcServerRole:
    """A `Role`."""

    tries = 5
    stop_seconds = (1.0, 0.5, 30.0)  # it keeps nothing: SIGTERM ends it at once, unless it is frozen

    def __init__(self, engine: EngineProgram, grants: Grants | None) -> None:
        """`grants`: what the gateway lets others reach; None: no gateway, and so nobody."""
        self._engine, self._grants = engine, grants

    def launch(self, spec: ProcessSpec) -> Launch:
        """See `Role`. ProcessStartError: no_rpc_server, no_command_line."""
        if not isinstance(spec, RpcServerSpec):
            raise TypeError(f"a {type(spec).__name__} for the role {spec.key.role!r}: it wants a RpcServerSpec")
        port = free_port()
        try:
            arguments = rpc_server_arguments(spec.placement, spec.worker, port=port, threads=spec.threads)
        except ValueError as error:
            raise ProcessStartError("no_command_line", str(error), retryable=False) from error
        command = self._engine.rpc_command(arguments)
        if command is None:
            message = f"the engine of {spec.worker} has no ggml-rpc-server that can be started"
            raise ProcessStartError("no_rpc_server", message, retryable=True)
        record = ProcessRecord(key=spec.key, wanted_port=port, members=spec.placement.workers)
        return Launch(command, {}, record)

    def readiness(self, record: ProcessRecord) -> Readiness:
        """See `Role`."""
        return Listens(record.wanted_port)

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """When the link from the main server's host is lost: whoever used it is gone."""
        main = record.members[0] if record.members else ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            held = self._grants.held(record.key.instance_id, record.key.incarnation) if self._grants else None
            if held is not None and not held.held:
                how = held.reason or "no reason was seen"
                return ProcessExit(cause=f"the link from the main server's host {main} was lost: {how}", worker=main)

    def wants_another_try(self, lines: Sequence[str]) -> bool:
        """When another process took the port between our look and its start."""
        return any(_PORT_TAKEN in line for line in lines)

    def explain(self, record: ProcessRecord, lines: Sequence[str], code: int | None, *, stopped: bool) -> ProcessExit:
        """See `Role`. Its banner comes late, behind what it complained of: it is buffered until the end."""
        complaints = [line for line in lines if _COMPLAINT.match(line)]
        return explain_end(complaints or lines, code, stopped=stopped)

    def opened(self, record: ProcessRecord) -> None:
        """See `Role`."""
        if self._grants is not None and record.members:
            service = rpc_service(record.key.instance_id, record.key.incarnation)
            self._grants.grant(service, record.port, [f"worker/{record.members[0]}"])

    def closed(self, key: ProcessKey) -> None:
        """See `Role`."""
        if self._grants is not None:
            self._grants.withdraw(rpc_service(key.instance_id, key.incarnation))


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
