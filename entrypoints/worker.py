"""`stoker worker`: the agent of one GPU host."""

import asyncio
import platform
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import structlog
import uvicorn
from huggingface_hub.constants import HF_HUB_CACHE
from temporalio.client import Client
from temporalio.worker import Interceptor
from temporalio.worker import Worker as TemporalWorker

from activities.downloads import DownloadActivities
from activities.ports import MainServerSpec, ProcessKey
from activities.servers import ServerActivities
from entrypoints.concurrency import first_of
from entrypoints.data_folder import known_join_token
from entrypoints.folder_lock import locked
from stoker.domain.base import WorkerName
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.naming import download_queue, worker_queue
from stoker.domain.workers import Device, Worker
from stoker.secrets import agent_key, engine_key
from stoker.settings import Settings
from stoker.temporal import connect, quiet_runtime
from stoker.version import VERSION
from worker_agent.attempts import AttemptJournal
from worker_agent.control_api import ControlApi
from worker_agent.downloads import HubDownloads
from worker_agent.engine_choice import choose_engine
from worker_agent.engines import EngineProgram, is_there
from worker_agent.heartbeat import Heartbeat
from worker_agent.inventory import Inventory
from worker_agent.limits import parse_offers, parse_reserves
from worker_agent.log_server import log_app
from worker_agent.model_store import HostModelStore
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

log = structlog.get_logger()

MAX_PROCESSES = 1000  # endless activities each hold a slot
MAX_DOWNLOADS = 4
HEARTBEAT_THROTTLE = timedelta(seconds=5)
"""Bounds how late a cancellation is seen where the server cannot push it."""


def worker_name(settings: Settings) -> str:
    """The configured name, or the host's as a DNS label."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:63].strip("-")
    return settings.worker.name or host or "worker"


async def run_worker(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises ValueError (bad limits), EngineError, JoinRefusedError, FolderInUseError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = _Host(settings)
    await host.run(stop)
    await asyncio.sleep(0.1)  # see control_plane


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the agent's, not this listener's


def _engine(settings: Settings) -> EngineProgram:
    """The engine to use; the log says which and why, and which could not be used. Raises EngineError."""
    worker = settings.worker
    chosen = choose_engine(worker.engine, llama_server=worker.llama_server, rpc_server=worker.rpc_server)
    for name, reason in chosen.passed_over.items():
        log.warning("engine_not_usable", engine=name, reason=reason, used_instead=chosen.name)
    if chosen.rpc_problem:
        log.warning("engine_without_rpc", engine=chosen.name, reason=chosen.rpc_problem)
    log.info("engine_chosen", engine=chosen.name, reason=chosen.reason, version=chosen.engine.describe().version)
    return chosen.engine


class _Host:
    """The agent's parts, wired."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        worker = settings.worker
        self._name = worker_name(settings)
        self._data_dir = settings.data_dir / "worker" / self._name
        self._bind = "127.0.0.1" if worker.address in ("127.0.0.1", "localhost") else "0.0.0.0"  # noqa: S104
        self._engine = _engine(settings)
        self._api = ControlApi(
            worker.server or settings.api_url, self._name, known_join_token(settings), self._data_dir / "identity.json"
        )
        self._inventory = Inventory(
            self._engine.device_names, offers=parse_offers(worker.offer), reserves=parse_reserves(worker.reserve)
        )
        self._described = self._engine.describe()
        self._engine_there = True
        self._board = ProgressBoard()
        self._agent_port = 0
        self._supervisor = HostSupervisor(
            engine=self._engine,
            state_dir=self._data_dir,
            log_dir=self._data_dir / "logs",
            host=self._bind,
            arguments=self._arguments,
            engine_key=self._engine_key,
            device_use=self._inventory.used_by,
            on_end=self._board.touch,  # what it held is free: the next report shall not wait
        )
        model_dirs = worker.model_dirs or (Path.home(), settings.data_dir)
        self._store = HostModelStore(model_dirs, HubDownloads(Path(HF_HUB_CACHE)))

    async def run(self, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            # Two agents on one folder would adopt each other's processes, and each end what the other started.
            stack.enter_context(locked(self._data_dir))
            supervisor = await stack.enter_async_context(self._supervisor)
            stack.push_async_callback(self._api.close)
            listener = stack.enter_context(socket.create_server((self._bind, 0)))
            self._agent_port = listener.getsockname()[1]
            try:
                await first_of(stop.wait(), self._live(supervisor, listener))
            finally:
                if stop.is_set() and self._settings.worker.stop_processes_on_exit:
                    await supervisor.reap(keep=())

    async def _live(self, supervisor: HostSupervisor, listener: socket.socket) -> None:
        """Joins if need be, then reports, works and answers for logs, until cancelled or one of them fails."""
        heartbeat = Heartbeat(self._api, self._look, supervisor, self._board)
        # Temporal first: a worker that has joined is one that takes work.
        client = await connect(
            self._settings.temporal.address,
            identity=f"agent@{self._name}",
            wait_seconds=float("inf"),
            runtime=quiet_runtime(),
        )
        if self._api.identity is None:
            await heartbeat.join()
        parts = (heartbeat.run(), heartbeat.watch_loading(), self._work(client), self._serve_logs(listener))
        await first_of(*parts)

    async def _work(self, client: Client) -> None:
        """Takes work from the host's queues, until cancelled."""
        journal = AttemptJournal(self._data_dir / "attempts")
        await journal.fail_stale(client)
        control, download = host_workers(
            client, self._name, self._supervisor, self._store, self._board, interceptors=[journal]
        )
        async with control, download:
            log.info("worker_ready", worker=self._name, queue=worker_queue(self._name))
            await asyncio.Event().wait()

    async def _serve_logs(self, listener: socket.socket) -> None:
        """Answers the API's questions for logs, until cancelled."""
        app = log_app(self._supervisor, lambda: agent_key(self._engine_secret()))
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        await server.serve(sockets=[listener])

    def _look(self) -> Worker:
        """The worker now. Without an engine, when its own was removed: then nothing is placed here."""
        devices: tuple[Device, ...] = self._inventory.read_devices()
        if (there := is_there(self._engine)) is not self._engine_there:
            self._engine_there = there
            log.warning("engine_is_back" if there else "engine_is_gone", version=self._described.version)
        return Worker(
            name=self._name,
            address=self._settings.worker.address,
            labels=self._settings.worker.labels,
            devices=devices,
            engine=self._described if there else None,
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            agent_port=self._agent_port,
            agent_version=VERSION,
        )

    def _arguments(self, server: MainServerSpec) -> tuple[str, ...]:
        return main_server_arguments(
            server.spec,
            server.placement,
            model_path=server.model_path,
            alias=server.deployment,
            pooling=server.pooling,
            host=self._bind,
        )

    def _engine_key(self, key: ProcessKey) -> str:
        return engine_key(self._engine_secret(), key.instance_id, key.incarnation)

    def _engine_secret(self) -> str:
        if self._api.identity is None:
            raise RuntimeError("no process may start before the worker has joined")
        return self._api.identity.engine_secret


def host_workers(
    client: Client,
    name: WorkerName,
    supervisor: HostSupervisor,
    store: HostModelStore,
    board: ProgressBoard,
    *,
    interceptors: Sequence[Interceptor] = (),
) -> tuple[TemporalWorker, TemporalWorker]:
    """What takes work from a host's two queues: control of its processes, and downloads, which never hold it up."""
    servers = ServerActivities(supervisor)
    downloads = DownloadActivities(store, board.show)
    control = TemporalWorker(
        client,
        task_queue=worker_queue(name),
        activities=[servers.serve_main, servers.drain_main, downloads.inspect_file],
        max_concurrent_activities=MAX_PROCESSES,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(0),  # endless activities never finish by themselves
        interceptors=interceptors,
    )
    download = TemporalWorker(
        client,
        task_queue=download_queue(name),
        activities=[downloads.fetch_model],
        max_concurrent_activities=MAX_DOWNLOADS,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(0),
        interceptors=interceptors,
    )
    return control, download
