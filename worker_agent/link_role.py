"""The link: one process that carries a main server's connections to its RPC servers, through their hosts' gateways."""

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from activities.ports import LinkSpec, ProcessKey, ProcessSpec
from stoker.private_files import write_private
from worker_agent.exits import explain_end
from worker_agent.mesh.grants import rpc_service
from worker_agent.processes import Readiness
from worker_agent.readiness import WritesPorts
from worker_agent.records import ProcessExit, ProcessRecord, file_stem
from worker_agent.roles import Launch

_LOST = re.compile(r"the (?:link to|gateway of) (?P<peer>[a-z0-9-]+)")  # in the last line of worker_agent.mesh.link


class LinkRole:
    """A `Role`."""

    tries = 1
    stop_seconds = (2.0, 0.5, 30.0)

    def __init__(self, folder: Path, mesh: Path) -> None:
        """`folder`: where what a link must know is kept. `mesh`: this host's identity in the mesh."""
        self._folder, self._mesh = folder, mesh

    def launch(self, spec: ProcessSpec) -> Launch:
        """See `Role`. Raises OSError when what it must know cannot be written."""
        if not isinstance(spec, LinkSpec):
            raise TypeError(f"a {type(spec).__name__} for the role {spec.key.role!r}: it wants a LinkSpec")
        ready = self._ready(spec.key)
        ready.unlink(missing_ok=True)
        told = {
            "folder": str(self._mesh),
            "service": rpc_service(spec.key.instance_id, spec.key.incarnation),
            "peers": [peer.model_dump() for peer in spec.peers],
            "ready_file": str(ready),
        }
        path = self._told(spec.key)
        write_private(path, json.dumps(told))
        command = [sys.executable, "-P", "-m", "worker_agent.mesh.link", str(path)]
        record = ProcessRecord(key=spec.key, members=(spec.worker, *(peer.worker for peer in spec.peers)))
        return Launch(command, {}, record)

    def readiness(self, record: ProcessRecord) -> Readiness:
        """See `Role`."""
        return WritesPorts(self._ready(record.key))

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """Never: it ends by itself when a link is lost."""
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    def wants_another_try(self, lines: Sequence[str]) -> bool:
        """Never: its ports are the system's choice."""
        return False

    def explain(self, record: ProcessRecord, lines: Sequence[str], code: int | None, *, stopped: bool) -> ProcessExit:
        """See `Role`. Its last line names the peer that was lost, and how."""
        end = explain_end(lines, code, stopped=stopped)
        lost = _LOST.search(end.cause)
        if lost is None or stopped:
            return end
        worker = lost["peer"] if lost["peer"] in record.members[1:] else ""
        return end.model_copy(update={"cause": end.cause[lost.start() :], "worker": worker})

    def opened(self, record: ProcessRecord) -> None:
        """Nobody else reaches it."""

    def closed(self, key: ProcessKey) -> None:
        """See `Role`."""
        for path in (self._told(key), self._ready(key)):
            path.unlink(missing_ok=True)

    def _told(self, key: ProcessKey) -> Path:
        return self._folder / f"{file_stem(key)}.json"

    def _ready(self, key: ProcessKey) -> Path:
        return self._folder / f"{file_stem(key)}.ready.json"
