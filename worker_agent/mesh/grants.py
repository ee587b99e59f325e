"""Which services of this host others may reach, and who: one small file each. The agent writes, the gateway reads.

    <folder>/grants/rpc.<instance>.<incarnation>.json    {"service": ..., "port": ..., "peers": [...]}
    <folder>/held/<instance>.<incarnation>.json          {"held": ..., "since": ..., "reason": ...}: the gateway writes

They are files, and not calls, since each of the two outlives the other: what was granted stays granted while no agent
runs, and a new gateway knows at once what the last one was told.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import Field, ValidationError

from stoker.domain.base import InstanceId, Value
from stoker.mesh.wire import (
    AGENT_SERVICE,
    ANY_WORKER,
    FILES_SERVICE,
    SERVER,
    is_peer,
    is_service,
    main_service,
    rpc_service,
)
from stoker.private_files import write_private

__all__ = [
    "AGENT_SERVICE",
    "ANY_WORKER",
    "FILES_SERVICE",
    "SERVER",
    "Grant",
    "Grants",
    "Held",
    "main_service",
    "rpc_service",
]

log = structlog.get_logger()


Port = Annotated[int, Field(ge=1, le=65_535)]
SocketPath = Annotated[str, Field(pattern="^/", max_length=107)]


class Grant(Value):
    """A port on this host's loopback that some peers may reach. Peers: "server", "worker/<name>", "worker/*".

    Instead of a port it may be the path of a Unix socket, which other users of this host do not reach.
    """

    service: str
    port: Port | SocketPath
    peers: tuple[str, ...]

    def admits(self, peer: str) -> bool:
        """Whether `peer` ("server" or "worker/<name>") may reach the service."""
        return peer in self.peers or (ANY_WORKER in self.peers and peer.startswith("worker/"))


class Held(Value):
    """Whether the main server's host holds its link to an RPC server here; `reason` says how a lost one was lost."""

    held: bool
    since: float  # Unix seconds
    reason: str = ""


class Grants:
    """The grants of one host, in its mesh folder. Each change is atomic, and seen by the gateway within a second."""

    def __init__(self, folder: Path) -> None:
        self._grants, self._held = folder / "grants", folder / "held"

    def grant(self, service: str, port: int | str, peers: Iterable[str]) -> None:
        """Lets `peers` reach `port` of this host's loopback (or the Unix socket of that path), as `service`.

        It replaces what was granted of it before.

        Raises ValueError for a name that is none, OSError when it cannot be written.
        """
        named = tuple(peers)
        for peer in named:
            if not is_peer(peer):
                raise ValueError(f"{peer!r} is no peer: server, worker/<name> or {ANY_WORKER}")
        grant = Grant(service=service, port=port, peers=named)
        write_private(self._path(service), grant.model_dump_json())

    def withdraw(self, service: str) -> None:
        """Takes a service back: its connections are cut, and none is let in. None there is fine. Raises OSError."""
        self._path(service).unlink(missing_ok=True)
        if service.startswith("rpc/"):
            self.forget_held(service)

    def is_granted(self, service: str) -> bool:
        """Whether it is granted to anybody at this moment. Raises OSError."""
        try:
            self._path(service).stat()
        except FileNotFoundError:
            return False
        return True

    def all(self) -> dict[str, Grant]:
        """Every grant by its service. A damaged one grants nothing, and is logged. Raises OSError."""
        found: dict[str, Grant] = {}
        for name in os.listdir(self._grants):  # noqa: PTH208 - Path.glob hides that a folder cannot be read
            if name.startswith(".") or not name.endswith(".json"):
                continue
            try:
                grant = Grant.model_validate_json((self._grants / name).read_bytes())
            except FileNotFoundError:  # withdrawn at this moment
                continue
            except ValidationError as error:
                log.error("grant_damaged", file=name, error=str(error.errors(include_url=False, include_input=False)))
                continue
            if is_service(grant.service) and self._path(grant.service).name == name:
                found[grant.service] = grant
        return found

    def held(self, instance_id: InstanceId, incarnation: int) -> Held | None:
        """What became of the link to an RPC server here; None: nobody has held it yet, or it cannot be read."""
        try:
            return Held.model_validate_json(self._held_path(rpc_service(instance_id, incarnation)).read_bytes())
        except (OSError, ValidationError):
            return None

    def tell_held(self, service: str, held: Held) -> None:
        """The gateway's word on the link of an RPC service. Raises OSError."""
        write_private(self._held_path(service), held.model_dump_json())

    def forget_held(self, service: str) -> None:
        """Removes the word on a link. None there is fine. Raises OSError."""
        self._held_path(service).unlink(missing_ok=True)

    def told_held(self) -> dict[str, Held]:
        """What an earlier gateway has said of the links, by service; unreadable ones are passed over."""
        found: dict[str, Held] = {}
        for path in self._held.glob("*.json"):
            service = f"rpc/{path.name.removesuffix('.json')}"
            instance_id, _, incarnation = path.name.removesuffix(".json").rpartition(".")
            if is_service(service) and (held := self.held(instance_id, int(incarnation))) is not None:
                found[service] = held
        return found

    def _path(self, service: str) -> Path:
        if not is_service(service):
            raise ValueError(f"{service!r} is no service: agent, files, rpc/<instance>.<n> or main/<instance>.<n>")
        return self._grants / f"{service.replace('/', '.')}.json"

    def _held_path(self, service: str) -> Path:
        return self._held / f"{service.removeprefix('rpc/')}.json"
