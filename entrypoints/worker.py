"""`stoker worker`: the agent of one GPU host."""

import asyncio
import platform
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import structlog
import uvicorn
from huggingface_hub.constants import HF_HUB_CACHE
from temporalio.client import Client

from activities.ports import MainServerSpec, MeshPeer, ProcessKey
from entrypoints.clock import utc_now
from entrypoints.concurrency import first_of
from entrypoints.data_folder import known_join_token, server_mesh_folder, worker_mesh_folder
from entrypoints.folder_lock import locked
from entrypoints.host_workers import host_workers
from entrypoints.tracing import close, interceptors, tracing_of
from stoker.certificates import SERVER_HOLDER, worker_holder
from stoker.domain.llamacpp import main_server_arguments
from stoker.domain.naming import worker_queue
from stoker.domain.workers import Device, Worker
from stoker.identity_folder import IdentityFolder
from stoker.mesh.wire import AGENT_SERVICE, ANY_WORKER, FILES_SERVICE, SERVER
from stoker.secrets import agent_key, engine_key
from stoker.settings import Settings
from stoker.temporal import connect, quiet_runtime
from stoker.version import VERSION
from worker_agent.attempts import AttemptJournal
from worker_agent.control_api import ControlApi, RemovedError
from worker_agent.downloads import HubDownloads
from worker_agent.engine_choice import choose_engine
from worker_agent.engines import EngineProgram, is_there
from worker_agent.file_records import FileRecords
from worker_agent.file_server import file_app, file_listener
from worker_agent.heartbeat import Heartbeat
from worker_agent.host_mesh import GatewayMesh
from worker_agent.inventory import Inventory
from worker_agent.limits import parse_offers, parse_reserves
from worker_agent.log_server import log_app
from worker_agent.mesh.gateway_process import GatewayError, GatewayProcess, bind_address
from worker_agent.mesh.grants import Grants
from worker_agent.mesh_identity import CertificateKeeper
from worker_agent.model_store import HostModelStore
from worker_agent.presence import Presence
from worker_agent.progress import ProgressBoard
from worker_agent.supervisor import HostSupervisor

log = structlog.get_logger()

GATEWAY_LOOK_SECONDS = 1.0


def worker_name(settings: Settings) -> str:
    """The configured name, or the host's as a DNS label."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:63].strip("-")
    return settings.worker.name or host or "worker"


async def run_worker(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises ValueError (bad limits), EngineError, JoinRefusedError, FolderInUseError, TracingMissingError.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = _Host(settings)
    await host.run(stop)
    await close(host.tracing)
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
        self.tracing = tracing_of(settings, "worker", instance=self._name)
        self._data_dir = settings.data_dir / "worker" / self._name
        self._bind = "127.0.0.1"  # others come through the gateway
        self._engine = _engine(settings)
        self._api = ControlApi(
            worker.server or settings.api_url, self._name, known_join_token(settings), self._data_dir / "identity.json"
        )
        self._mesh = IdentityFolder(worker_mesh_folder(settings, self._name), worker_holder(self._name))
        self._identity = CertificateKeeper(self._api, self._mesh, self._expected_authority)
        self._gateway = GatewayProcess(
            self._mesh.path, bind_address(worker.address), worker.mesh_port, self._data_dir / "gateway"
        )
        self._mesh_port, self._mesh_problem = 0, ""
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
            stall_timeout=worker.stall_timeout,
        )
        model_dirs = worker.model_dirs or (Path.home(), settings.data_dir)
        self._downloads = HubDownloads(
            Path(HF_HUB_CACHE),
            records=FileRecords(self._data_dir / "files.json"),
            live=lambda: {key.instance_id for key in self._supervisor.statuses()},
            evict_for_room=worker.evict_for_room,
            mesh_folder=self._mesh.path,
        )
        self._store = HostModelStore(model_dirs, self._downloads)

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
            except RemovedError as error:
                await self._leave(supervisor, str(error))
                await stop.wait()  # whoever starts ended processes again would let it join at once
            finally:
                if stop.is_set() and self._settings.worker.stop_processes_on_exit:
                    await supervisor.reap(keep=())
                    await self._gateway.stop()

    async def _live(self, supervisor: HostSupervisor, listener: socket.socket) -> None:
        """Joins if need be, then reports, works and answers for logs, until cancelled or one of them fails."""
        presence = Presence(self._data_dir / "last-report", self._settings.worker_grace)
        told = self._identity.take_revoked
        files = self._downloads.stored
        heartbeat = Heartbeat(self._api, self._look, supervisor, self._board, presence, on_revoked=told, files=files)
        # Temporal first: a worker that has joined is one that takes work.
        client = await connect(
            self._settings.temporal.address,
            identity=f"agent@{self._name}",
            wait_seconds=float("inf"),
            runtime=quiet_runtime(),
            interceptors=interceptors(self.tracing),
        )
        await self._look_after_gateway()  # before the first report: one that names no gateway would close the way here
        if self._api.identity is None:
            await heartbeat.join()
        parts = (heartbeat.run(), heartbeat.watch_loading(), self._work(client), self._serve_logs(listener))
        await first_of(*parts, self._identity.run(), self._keep_gateway(), self._serve_files())

    async def _leave(self, supervisor: HostSupervisor, reason: str) -> None:
        """Ends everything that the cluster had here, and forgets what it gave: the next agent joins anew, or not."""
        log.error("worker_removed", reason=reason, remedy="stop this agent, or start it again to let it join anew")
        await supervisor.reap(keep=())
        await self._gateway.stop()
        self._api.forget()
        self._mesh.forget()

    def _expected_authority(self) -> str | None:
        """The authority that is the cluster's beyond doubt: the join token names it, or the API is on this machine."""
        if (named := self._api.expected_authority) is not None or self._settings.worker.server:
            return named
        return IdentityFolder(server_mesh_folder(self._settings), SERVER_HOLDER).fingerprint()

    async def _work(self, client: Client) -> None:
        """Takes work from the host's queues, until cancelled."""
        journal = AttemptJournal(self._data_dir / "attempts")
        await journal.fail_stale(client)
        control, download = host_workers(
            client,
            self._name,
            self._supervisor,
            self._store,
            self._board,
            interceptors=[journal],
            mesh=GatewayMesh(self._mesh.path, self._described, self._gateway_now, utc_now),
        )
        async with control, download:
            log.info("worker_ready", worker=self._name, queue=worker_queue(self._name))
            await asyncio.Event().wait()

    async def _serve_logs(self, listener: socket.socket) -> None:
        """Answers the API's questions for logs, until cancelled."""
        app = log_app(self._supervisor, lambda: agent_key(self._engine_secret()))
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        await server.serve(sockets=[listener])

    async def _keep_gateway(self) -> None:
        """Looks after the gateway, until cancelled."""
        while True:
            await asyncio.sleep(GATEWAY_LOOK_SECONDS)
            await self._look_after_gateway()

    async def _look_after_gateway(self) -> None:
        """Sees to it that there is a gateway, as soon as there is an identity to show."""
        port, problem = 0, ""
        try:
            if not self._mesh_port:
                Grants(self._mesh.path).grant(AGENT_SERVICE, self._agent_port, [SERVER])
            if await asyncio.to_thread(self._mesh.facts) is not None:
                port = await self._gateway.ensure()
        except GatewayError as error:
            problem = str(error)
        except OSError as error:  # of a full disk, say: the gateway that there is goes on
            port, problem = self._mesh_port, str(error)
        if problem and problem != self._mesh_problem:
            log.error("gateway_in_trouble", reason=problem)
        if port != self._mesh_port:
            self._board.touch()  # others shall hear of it at once
        self._mesh_port, self._mesh_problem = port, problem

    async def _serve_files(self) -> None:
        """Gives other workers of the cluster the model files that are here, through the gateway, until cancelled."""
        with file_listener(self._mesh.path) as listener:
            Grants(self._mesh.path).grant(FILES_SERVICE, listener.getsockname(), [ANY_WORKER])
            app = file_app(self._downloads.held_file)
            server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
            await server.serve(sockets=[listener])

    def _gateway_now(self) -> MeshPeer:
        return MeshPeer(worker=self._name, host=self._settings.worker.address, port=self._mesh_port)

    def _look(self) -> Worker:
        """The worker now. Without an engine, when its own was removed: then nothing is placed here."""
        devices: tuple[Device, ...] = self._inventory.read_devices()
        if (there := is_there(self._engine)) is not self._engine_there:
            self._engine_there = there
            log.warning("engine_is_back" if there else "engine_is_gone", version=self._described.version)
        return Worker(
            name=self._name,
            address=self._settings.worker.address,
            labels={**self._settings.worker.labels, **(self._api.identity.labels if self._api.identity else {})},
            devices=devices,
            engine=self._described if there else None,
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            agent_port=self._agent_port,
            mesh_port=self._mesh_port,
            serves_rpc=bool(self._mesh_port and there and self._engine.rpc_command(())),
            holds=self._store.holds(),
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
            rpc=[f"127.0.0.1:{port}" for port in server.rpc_ports],
        )

    def _engine_key(self, key: ProcessKey) -> str:
        return engine_key(self._engine_secret(), key.instance_id, key.incarnation)

    def _engine_secret(self) -> str:
        if self._api.identity is None:
            raise RuntimeError("no process may start before the worker has joined")
        return self._api.identity.engine_secret
