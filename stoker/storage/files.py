"""Model files on workers' disks, by the rows: what each worker told, who uses it, and who can give it to another."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import bindparam, update
from sqlmodel import Session, col, select

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.files import Peer, StoredModel, stored_models
from stoker.domain.models import ModelFiles
from stoker.domain.reports import StoredFile
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.engine import Database
from stoker.storage.tables import ClaimRow, InstanceRow, WorkerRow, table_of
from stoker.storage.workers import state_of

MOST_PEERS = 4
"""As many are named to a worker that fetches: each of its connections may have one."""

_FILES = TypeAdapter(tuple[StoredFile, ...])

_WORKERS = table_of(WorkerRow)
_ITS_FILES = select(_WORKERS.c.files).where(_WORKERS.c.name == bindparam("name")).with_for_update()
_TOLD = update(_WORKERS).where(_WORKERS.c.name == bindparam("teller")).values(files=bindparam("told"))


class Files:
    """The repository of files within one session."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session, self._now = session, now

    def keep(self, worker: WorkerName, files: Sequence[StoredFile]) -> None:
        """All files that the worker told now, in place of what it told before. One that never joined is left out."""
        told = [file.model_dump(mode="json") for file in files]
        self._session.execute(_TOLD, {"teller": worker, "told": told})

    def forget(self, worker: WorkerName, model: str) -> None:
        """The model is not on that worker's disk any more: until the worker tells so itself."""
        files = self._session.execute(_ITS_FILES, {"name": worker}).scalar()
        if files is not None:
            left = [file for file in files if file.get("model") != model]
            self._session.execute(_TOLD, {"teller": worker, "told": left})

    def all(self, *, worker: WorkerName | None = None) -> dict[WorkerName, tuple[StoredModel, ...]]:
        """The models on every worker's disk, or on one's, by worker."""
        query = select(WorkerRow.name, WorkerRow.files).order_by(WorkerRow.name)
        if worker is not None:
            query = query.where(WorkerRow.name == worker)
        return {name: stored_models(_FILES.validate_python(files)) for name, files in self._session.exec(query)}

    def users(self) -> dict[tuple[WorkerName, str], tuple[InstanceId, ...]]:
        """Instances whose main server has its place on a worker, by that worker and the key of their model."""
        claimed = select(ClaimRow.instance_id)
        query = (
            select(InstanceRow.id, InstanceRow.worker, InstanceRow.request)
            .where(col(InstanceRow.id).in_(claimed), InstanceRow.worker != "")
            .order_by(InstanceRow.id)
        )
        found: dict[tuple[WorkerName, str], tuple[InstanceId, ...]] = {}
        for instance_id, worker, request in self._session.exec(query):
            if request is not None:
                place = (worker, _model(request))
                found[place] = (*found.get(place, ()), instance_id)
        return found

    def peers(self, model: str, *, besides: WorkerName) -> tuple[Peer, ...]:
        """See `FileHolders.peers`. Those that serve the fewest instances come first."""
        busy: dict[WorkerName, int] = {}
        for name, _ in self._session.exec(select(ClaimRow.worker, ClaimRow.instance_id).distinct()):
            busy[name] = busy.get(name, 0) + 1
        found: list[Peer] = []
        query = select(WorkerRow.name, WorkerRow.report, WorkerRow.seen_at).where(WorkerRow.name != besides)
        for name, report, seen_at in self._session.exec(query):
            if model not in report.get("holds", ()):
                continue
            worker = Worker.model_validate(report)
            away = state_of(cordoned=False, draining=False, silent=self._now - seen_at) is WorkerState.UNREACHABLE
            if worker.mesh_port and not away:
                found.append(Peer(worker=name, address=worker.address, mesh_port=worker.mesh_port))
        return tuple(sorted(found, key=lambda peer: (busy.get(peer.worker, 0), peer.worker))[:MOST_PEERS])


class RowFileHolders:
    """Satisfies `activities.ports.FileHolders`. Each call is one transaction; `clock` gives the moment in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock

    def peers(self, model: str, *, besides: WorkerName) -> tuple[Peer, ...]:
        """See `FileHolders`."""
        with self._database.read() as session:
            return Files(session, self._clock()).peers(model, besides=besides)

    def placed_on(self, worker: WorkerName) -> tuple[str, ...]:
        """See `FileHolders`."""
        with self._database.read() as session:
            return tuple(sorted(model for where, model in Files(session, self._clock()).users() if where == worker))


def _model(request: Mapping[str, Any]) -> str:
    return ModelFiles.model_validate(request["files"]).key
