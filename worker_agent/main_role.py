"""llama-server."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from activities.ports import MainServerSpec, ProcessKey, ProcessSpec, ProcessStartError
from stoker.domain.llamacpp import rpc_peers
from stoker.domain.models import shard_names
from worker_agent.engines import EngineProgram
from worker_agent.exits import explain_exit
from worker_agent.mesh.grants import SERVER, Grants, main_service
from worker_agent.processes import STOP_SECONDS, Guard, Readiness
from worker_agent.readiness import AnswersHealth
from worker_agent.records import ProcessExit, ProcessRecord
from worker_agent.roles import Launch

_RPC = re.compile(r"ggml-rpc|RPC|rpc_")  # in what llama.cpp says when a peer is the cause


class MainServerRole:
    """A `Role`. The API's machine may reach it, through the gateway where that is elsewhere."""

    tries = 1

    def __init__(
        self,
        engine: EngineProgram,
        client: httpx.AsyncClient,
        guard: Guard,
        *,
        arguments: Callable[[MainServerSpec], Sequence[str]],
        engine_key: Callable[[ProcessKey], str],
        grants: Grants | None,
        stop_seconds: tuple[float, float, float] = STOP_SECONDS,
    ) -> None:
        self._engine, self._client, self._guard = engine, client, guard
        self._arguments, self._engine_key, self._grants = arguments, engine_key, grants
        self.stop_seconds = stop_seconds

    def launch(self, spec: ProcessSpec) -> Launch:
        """See `Role`. ProcessStartError: no_command_line."""
        if not isinstance(spec, MainServerSpec):
            raise TypeError(f"a {type(spec).__name__} for the role {spec.key.role!r}: it wants a MainServerSpec")
        try:
            command = self._engine.main_command(self._arguments(spec))
        except ValueError as error:
            raise ProcessStartError("no_command_line", str(error), retryable=False) from error
        # Of a single key llama.cpp logs the end, of several their number.
        environment = {"LLAMA_API_KEY": ",".join([self._engine_key(spec.key)] * 2)}
        peers = dict(zip(spec.rpc_ports, rpc_peers(spec.placement), strict=True))
        record = ProcessRecord(
            key=spec.key,
            model_size=_model_size(spec.model_path),
            patience=spec.patience,
            members=spec.placement.workers if peers else (),
            rpc_peers={f"127.0.0.1:{port}": peer for port, peer in peers.items()},
        )
        return Launch(command, environment, record)

    def readiness(self, record: ProcessRecord) -> Readiness:
        """See `Role`."""
        return AnswersHealth(self._client, record.model_size)

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """See `Guard`."""
        return await self._guard.fault(record)

    def wants_another_try(self, lines: Sequence[str]) -> bool:
        """Never: its port is the system's choice."""
        return False

    def explain(self, record: ProcessRecord, lines: Sequence[str], code: int | None, *, stopped: bool) -> ProcessExit:
        """See `Role`. Of a group: whose fault it was, unless it was a peer's and the engine does not say which."""
        end = explain_exit(lines, code, was_ready=record.port > 0, stopped=stopped)
        if stopped or not record.rpc_peers:
            return end
        named = {peer for endpoint, peer in record.rpc_peers.items() if endpoint in end.cause}
        cause = end.cause
        for endpoint, peer in record.rpc_peers.items():
            cause = cause.replace(endpoint, peer)  # the port is the link's, and says nothing to people
        own = record.members[0] if not named and not _RPC.search(cause) else ""
        return end.model_copy(update={"cause": cause, "worker": named.pop() if len(named) == 1 else own})

    def opened(self, record: ProcessRecord) -> None:
        """See `Role`."""
        if self._grants is not None:
            self._grants.grant(main_service(record.key.instance_id, record.key.incarnation), record.port, [SERVER])

    def closed(self, key: ProcessKey) -> None:
        """See `Role`."""
        if self._grants is not None:
            self._grants.withdraw(main_service(key.instance_id, key.incarnation))


def _model_size(first_file: str) -> int:
    """Bytes of the model's files; 0 where they cannot be read: the engine says better why."""
    path = Path(first_file)
    try:
        return sum(path.with_name(name).stat().st_size for name in shard_names(path.name))
    except (OSError, ValueError):
        return 0
