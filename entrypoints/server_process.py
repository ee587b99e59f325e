"""One of the processes that answer on the API's port: `stoker server` starts them, and hands them its listener."""

import asyncio
import gc
import os
import resource
import signal
import socket
from contextlib import suppress
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from api.app import create_app
from api.deps import ApiContext
from api.http_protocol import HttpProtocol
from api.keyring import KeyRing
from api.limits.gate import LimitGate
from api.route_source import DatabaseRoutes
from api.usage.recorder import UsageRecorder
from entrypoints.admin_key import ensure_admin_key
from entrypoints.clock import utc_now
from entrypoints.concurrency import first_of
from entrypoints.data_folder import (
    header_cache,
    join_token,
    key_counters,
    metrics_folder,
    server_mesh_folder,
    server_secret,
    usage_folder,
)
from entrypoints.inherited import READY, Inherited
from entrypoints.server_identity import ServerIdentity
from stoker.certificates import SERVER_HOLDER
from stoker.identity_folder import IdentityFolder
from stoker.mesh.identity import MeshIdentity
from stoker.remote_models import remote_models
from stoker.settings import Settings
from stoker.storage.authority import cluster_authority
from stoker.storage.engine import Database
from stoker.temporal import connect, quiet_runtime

log = structlog.get_logger()


FILES = 65_536
"""Connections and files that a process may have open, where the system lets it: a login gives 1,024."""


async def run_server_process(settings: Settings, inherited: Inherited) -> None:
    """Serves until SIGTERM or SIGINT, or until its parent is gone. Raises AuthoritySealedError.

    Told to stop, it takes no more connections; what is being answered goes on for `settings.api.drain_timeout`.
    """
    _raise_file_limit()
    listener = socket.socket(fileno=inherited.listener)
    database = Database(settings.database_url)
    secret = server_secret(settings)
    await asyncio.to_thread(ensure_admin_key, settings, database, secret)
    authority = await asyncio.to_thread(cluster_authority, database, secret, utc_now)
    own_folder = IdentityFolder(server_mesh_folder(settings), SERVER_HOLDER)
    identity = ServerIdentity(database, authority, own_folder, utc_now)
    await asyncio.to_thread(identity.refresh)
    context = ApiContext(
        database=database,
        temporal=await connect(settings.temporal.address, identity="api", lazy=True, runtime=quiet_runtime()),
        secret=secret,
        authority=authority,
        join_token_digest=secret.digest(join_token(settings)),
        keyring=KeyRing(database, secret, utc_now),
        routes=DatabaseRoutes(database),
        registry=CollectorRegistry(),
        models=remote_models(header_cache(settings), allow_private_urls=settings.urls.allow_private),
        clock=utc_now,
        pending_hold=settings.pending_hold,
        worker_grace=settings.worker_grace,
        mesh=MeshIdentity(own_folder.path),
        recorder=UsageRecorder(database, usage_folder(settings), utc_now),
        gate=LimitGate(key_counters(settings)),
        usage_days=settings.api.usage_days,
        wake_timeout=settings.api.wake_timeout,
        metrics_folder=metrics_folder(settings),
        processes=settings.api.processes,
        temporal_ui=settings.temporal.ui_url,
    )
    config = uvicorn.Config(
        create_app(context),
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=round(settings.api.drain_timeout),
        timeout_keep_alive=75,  # longer than clients keep idle connections: it is they who close them, and lose nothing
        server_header=False,
        proxy_headers=False,  # whoever asks from this machine could forge its address by them
        date_header=True,
    )
    server = _Server(config, context, inherited.parent)
    await first_of(server.serve(sockets=[listener]), identity.run())
    database.close()
    await asyncio.sleep(0.1)  # see control_plane


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        with suppress(OSError, ValueError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Tells its parent when it answers, ends with it, and tells endless answers when it is to stop."""

    def __init__(self, config: uvicorn.Config, context: ApiContext, parent: int) -> None:
        super().__init__(config)
        self._context = context
        self._parent = socket.socket(fileno=parent)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        if self.should_exit:
            return
        gc.collect()
        gc.freeze()  # what is loaded by now stays: to look through it again and again would stop all answers for 0.1 s
        gc.set_threshold(10_000, 20, 20)  # requests leave hardly any cycles: a look each 700 objects found nothing
        self._parent.sendall(READY)
        asyncio.get_running_loop().add_reader(self._parent, self._hear)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's."""
        self._context.stopping.set()
        super().handle_exit(sig, frame)

    def _hear(self) -> None:
        """The parent says nothing: what can be read is its end."""
        asyncio.get_running_loop().remove_reader(self._parent)
        log.warning("parent_is_gone")
        os.kill(os.getpid(), signal.SIGTERM)
