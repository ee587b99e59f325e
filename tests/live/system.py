"""A whole system on this machine, each part a process of its own: Temporal, PostgreSQL, the API in several processes,
the control plane, an agent, and real engines. Any part may be stopped and started again.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import psutil
from sqlalchemy import text

from entrypoints.temporal_server import temporal_command
from stoker.settings import Settings
from stoker.storage.engine import Database
from tests.e2e.system import free_ports
from tests.faults.databases import Postgres
from tests.faults.kept import Keeper, Kept
from tests.faults.spread_system import RESTART_SECONDS, ROOT, STOKER
from worker_agent.processes import MARK

T = TypeVar("T")

NOWHERE = "http://127.0.0.1:9"
"""An address at which nobody listens: no run asks the hub."""


class LiveSystem:
    """All of it, as a context: it is up inside the block, and nothing is left of it afterwards."""

    def __init__(
        self,
        folder: Path,
        *,
        processes: int,
        model_dirs: Sequence[Path],
        llama_server: Path | None,
        offer: str = "4GiB",
        hub: str = NOWHERE,
    ) -> None:
        """`processes` answer for the API; without `llama_server` the bundled engine runs. `folder` must be empty."""
        self.folder, self._hub = folder, hub
        self._processes, self._model_dirs, self._llama_server = processes, model_dirs, llama_server
        self._offer = offer
        self._keeper = Keeper()

    def __enter__(self) -> Self:
        (self.folder / "logs").mkdir(parents=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends everything, the engines too. May be repeated."""
        self._keeper.close()
        for process in self._marked():  # engines and gateways outlive their agent on purpose
            process.kill()
        if hasattr(self, "postgres"):
            self.database.close()
            self.postgres.close()

    def _start(self) -> None:
        self.postgres = Postgres(self.folder / "postgres")
        self.database = Database(self.postgres.url)
        self.port, temporal_port, ui_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self.head = self.folder / "head"
        self.head.mkdir(mode=0o700)
        settings = Settings(data_dir=self.head, temporal={"port": temporal_port, "ui_port": ui_port})
        self.temporal = self._keep("temporal", temporal_command(settings), {}, restart_after=0.0)
        of_all = {
            "STOKER_TEMPORAL__ADDRESS": f"127.0.0.1:{temporal_port}",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "HF_ENDPOINT": self._hub,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        self.environment = of_all | {
            "STOKER_DATA_DIR": str(self.head),
            "STOKER_DATABASE__URL": self.postgres.url,
            "STOKER_API__PORT": str(self.port),
            "STOKER_API__PROCESSES": str(self._processes),
            "HF_HOME": str(self.head / "hub"),
        }
        self.cli("migrate")
        self.control_plane = self._keep("control-plane", [*STOKER, "control-plane"], self.environment)
        self.server = self._keep("server", [*STOKER, "server"], self.environment)
        self.eventually(self._is_up, "the API and Temporal answer", seconds=90)
        self.agent = self._keep("agent", [*STOKER, "worker"], of_all | self._of_agent())
        self.eventually(lambda: self._states("/workers") == ["ready"], "the worker has joined")

    def _keep(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, restart_after: float | None = None
    ) -> Kept:
        after = RESTART_SECONDS if restart_after is None else restart_after
        log = self.folder / "logs" / f"{name}.log"
        return self._keeper.keep(Kept(name, command, environment, log, restart_after=after))

    def _of_agent(self) -> dict[str, str]:
        data = self.folder / "agent"
        data.mkdir(mode=0o700)
        engine = {"STOKER_WORKER__ENGINE": "bundled"}
        if self._llama_server is not None:
            engine = {"STOKER_WORKER__LLAMA_SERVER": str(self._llama_server)}
        return engine | {
            "STOKER_DATA_DIR": str(data),
            "STOKER_WORKER__NAME": "w1",
            "STOKER_WORKER__SERVER": self.url,
            "STOKER_WORKER__OFFER": json.dumps([f"cpu={self._offer}"]),
            "STOKER_WORKER__MODEL_DIRS": json.dumps([str(folder) for folder in self._model_dirs]),
            "STOKER_WORKER__JOIN_TOKEN_FILE": str(self.head / "join-token"),
            "HF_HOME": str(data / "hub"),
        }

    def _is_up(self) -> bool:
        try:
            checks = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).json()["checks"].values()
        except (httpx.HTTPError, ValueError):
            return False
        return all(check["status"] == "ok" for check in checks)

    def _states(self, path: str) -> list[str]:
        try:
            with self.api(timeout=5) as api:
                return [item["state"] for item in api.get(path).raise_for_status().json()["data"]]
        except (httpx.HTTPError, OSError):
            return []

    # --- talking to it ------------------------------------------------------------------------------------------------

    @property
    def admin_key(self) -> str:
        """The key that the first start left."""
        return (self.head / "admin-key").read_text().strip()

    def api(self, *, timeout: float = 30.0) -> httpx.Client:
        """A client of the management API."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout, trust_env=False)

    def new_key(self, name: str, **fields: Any) -> tuple[str, str]:
        """The id of a new key, and the key."""
        with self.api() as api:
            made = api.post("/keys", json={"name": name, **fields}).raise_for_status().json()
        return made["id"], made["key"]

    def deploy(self, name: str, model: Path, *, replicas: int = 1, slots: int = 2, **fields: Any) -> None:
        """Deploys a model, and waits until all its replicas run. `fields`: of the request's body, besides."""
        wanted = {"context_length": 1024 * slots, "slots": slots, "threads": 1}
        body = {"name": name, "model": f"file:{model}", "cpu_offload": True, "replicas": replicas, "options": wanted}
        body |= fields
        with self.api() as api:
            answer = api.post("/deployments", json=body)
        assert answer.is_success, answer.text
        self.eventually(lambda: len(self.running(name)) == replicas, f"{name} runs", seconds=180)

    def instances(self, name: str) -> list[dict[str, Any]]:
        """The deployment's instances as the API shows them; none when it cannot be asked."""
        try:
            with self.api(timeout=5) as api:
                found: list[dict[str, Any]] = api.get(f"/deployments/{name}").raise_for_status().json()["instances"]
        except (httpx.HTTPError, OSError):
            return []
        return found

    def running(self, name: str) -> list[dict[str, Any]]:
        """Those of them that run."""
        return [instance for instance in self.instances(name) if instance["state"] == "running"]

    def cli(self, *arguments: str, timeout: float = 120.0) -> str:
        """What a `stoker` command prints. Raises CalledProcessError."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
        command = [*STOKER, *arguments]
        done = subprocess.run(
            command, env=own | self.environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    # --- looking at it ------------------------------------------------------------------------------------------------

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Rows of the database itself; `values` stand in the query as `:name`."""
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query), values).mappings()]

    def api_pids(self) -> list[int]:
        """The processes that answer for the API, without the one that holds the port."""
        parent = _process(self.server.pid)
        return [] if parent is None else sorted(child.pid for child in parent.children())

    def engine_pids(self) -> list[int]:
        """The living engines of this system."""
        commands = {process.pid: " ".join(process.cmdline()) for process in self._marked()}
        engines = ("worker_agent.bundled", "/llama-server ")
        return [pid for pid, command in commands.items() if any(name in command for name in engines)]

    def _marked(self) -> list[psutil.Process]:
        """The living processes that this system's agent has started."""
        return [
            process
            for process in psutil.process_iter(["status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE and str(self.folder) in _mark_of(process)
        ]

    def log(self, name: str) -> str:
        """What one of the processes has said so far."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def eventually(self, look: Callable[[], T | None], what: str, *, seconds: float = 60.0) -> T:
        """What `look` returns as soon as it is true. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                paths = sorted((self.folder / "logs").glob("*.log"))
                said = "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)
                raise TimeoutError(f"not within {seconds:g} s: {what}\n{said}")
            time.sleep(0.1)
        return found


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid else None
    except psutil.NoSuchProcess:
        return None


def _mark_of(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
