"""`stoker server` with all that its users have on: key, limits, routes, metering, metrics, a database."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stage.door.asked import BURST_MODEL, MODEL, PACED_MODEL
from benchmarks.stage.door.programs import pinned
from benchmarks.stage.door.proxies import Proxy, started
from entrypoints.clock import utc_now
from entrypoints.data_folder import server_secret
from stoker.domain.deployments import InstanceState
from stoker.domain.keys import Role
from stoker.domain.statuses import DeploymentProjection, InstanceProjection
from stoker.secrets import new_key
from stoker.settings import Settings
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.tables import KeyRow
from stoker.storage.workers import Workers
from tests.builders import make_files, make_profile, make_request, make_spec, make_worker
from tests.fakes.api import make_placement

_SLOTS = 2048  # of an engine that costs nothing
_HIGH = 2**40
LIMITS = {
    "requests_per_minute": _HIGH,
    "tokens_per_minute": _HIGH,
    "tokens_per_month": _HIGH,
    "concurrency": _HIGH,
}
"""Never reached, yet counted for every request."""


@contextmanager
def stoker(
    folder: Path, port: int, engine: int, core: int, *, environment: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """The server, with one instance of each model at the port `engine`."""
    data = folder / "stoker"
    data.mkdir()
    key = set_up(Settings(data_dir=data), engine)
    settings = {"STOKER_DATA_DIR": str(data), "STOKER_API__PORT": str(port), **(environment or {})}
    command = pinned(core, [sys.executable, "-P", "-m", "entrypoints.cli.main", "server"])
    with started("stoker", port, command, folder, key=key, environment=settings) as proxy:
        yield proxy


def set_up(settings: Settings, engine: int) -> str:
    """A database as it is while instances of all models run on this machine. Returns a user's key."""
    database, now = Database(settings.database_url), utc_now()
    migrate(database)
    key_id, key = new_key()
    with database.write() as session:
        digest = server_secret(settings).digest(key)
        session.add(KeyRow(id=key_id, name="benchmark", role=Role.USER, hash=digest, created_at=now, limits=LIMITS))
        Workers(session, now).join(make_worker(name="box-1"), credential_hash="-", engine_secret=key)
        for name in (MODEL, PACED_MODEL, BURST_MODEL):
            spec = make_spec(name=name)
            deployment = DeploymentProjection(spec=spec, generation=1, profile=make_profile(), files=make_files())
            Deployments(session, now).put(deployment)
            request = make_request(spec=spec)
            placement = make_placement()
            estimate = placement.estimate.model_copy(update={"slots": _SLOTS})
            instances = Instances(session, now)
            instances.placed(request, placement.model_copy(update={"estimate": estimate}))
            instances.put(
                InstanceProjection(
                    instance_id=request.instance_id,
                    deployment=name,
                    generation=1,
                    incarnation=1,
                    state=InstanceState.RUNNING,
                    port=engine,
                    pid=os.getpid(),
                )
            )
    database.close()
    return key
