"""A whole system over several machines that are not there: Temporal, PostgreSQL, the API and the control plane here,
and an agent on each host of a network of namespaces. Each is a process of its own, as an administrator runs it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from sqlalchemy import text

from entrypoints.temporal_server import temporal_command
from stoker.settings import Settings
from stoker.storage.engine import Database
from tests.e2e.system import free_ports
from tests.faults.databases import Postgres
from tests.faults.kept import Keeper, Kept
from tests.faults.network import Network

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
STOKER = [sys.executable, "-P", "-m", "entrypoints.cli.main"]
RESTART_SECONDS = 3.0  # what systemd is told in most units
MODEL = "smol"


@dataclass(frozen=True)
class Fleet:
    """What the machines are like."""

    workers: tuple[str, ...] = ("w1", "w2", "w3", "w4")
    strangers: tuple[str, ...] = ("stranger",)  # hosts without an agent
    offer: str = "600MiB"  # of the CPU of each: two of them together are too small for the model, too
    stall_timeout: float = 10.0  # seconds
    worker_grace: float = 30.0  # seconds
    context_length: int = 8192
    restart_seconds: float = RESTART_SECONDS
    log_level: str = "info"


class SpreadSystem:
    """All of it, as a context: it is up inside the block, and nothing is left of it afterwards."""

    def __init__(self, folder: Path, engine: Path, model: Path, fleet: Fleet = Fleet()) -> None:
        """`engine`: the folder of llama-server and ggml-rpc-server. `folder` must be empty, or not be there."""
        self.folder, self.engine, self.model, self.fleet = folder, engine, model, fleet
        self._keeper = Keeper()
        self.agents: dict[str, Kept] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir()
        self.network = Network([*self.fleet.workers, *self.fleet.strangers])
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
        """Ends everything. May be repeated."""
        self._keeper.close()
        self.network.close()
        if hasattr(self, "postgres"):
            self.postgres.close()

    def _start(self) -> None:
        self.postgres = Postgres(self.folder / "postgres")
        self.database = Database(self.postgres.url)
        address = self.network.address
        api_port, temporal_port, ui_port = free_ports(3)
        self.url = f"http://{address}:{api_port}"
        head = self.folder / "head"
        head.mkdir(mode=0o700)
        settings = Settings(data_dir=head, temporal={"port": temporal_port, "ui_port": ui_port})
        command = temporal_command(settings)
        command[command.index("--ip") + 1] = "0.0.0.0"  # noqa: S104 - on one address alone it does not find itself
        self.temporal = self._keep("temporal", command, {}, restart_after=0.0)
        self._of_all = {
            "STOKER_LOG_LEVEL": self.fleet.log_level,
            "STOKER_WORKER_GRACE": str(self.fleet.worker_grace),
            "STOKER_TEMPORAL__ADDRESS": f"{address}:{temporal_port}",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        self.environment = self._of_all | {
            "STOKER_DATA_DIR": str(head),
            "STOKER_DATABASE__URL": self.postgres.url,
            "STOKER_API__HOST": address,
            "STOKER_API__PORT": str(api_port),
        }
        self.cli("migrate")
        self.control_plane = self._keep("control-plane", [*STOKER, "control-plane"], self.environment)
        self.server = self._keep("server", [*STOKER, "server"], self.environment)
        self.eventually(self._is_up, "the API and Temporal answer", seconds=60)
        for name in self.fleet.workers:
            self.agents[name] = self._keep(name, *self._agent(name))
        self.eventually(lambda: len(self.ready_workers()) == len(self.fleet.workers), "all workers have joined")

    def _keep(
        self, name: str, command: Sequence[str], environment: dict[str, str], *, restart_after: float | None = None
    ) -> Kept:
        after = self.fleet.restart_seconds if restart_after is None else restart_after
        log = self.folder / "logs" / f"{name}.log"
        return self._keeper.keep(Kept(name, command, environment, log, restart_after=after))

    def _agent(self, name: str) -> tuple[list[str], dict[str, str]]:
        """The command of a host's agent, and its settings."""
        data = self.data(name)
        data.mkdir(parents=True, mode=0o700)
        token = data / "join-token"
        token.touch(mode=0o600)
        token.write_text(self._join_token())
        own = {
            "STOKER_DATA_DIR": str(data),
            "STOKER_WORKER__NAME": name,
            "STOKER_WORKER__SERVER": self.url,
            "STOKER_WORKER__ADDRESS": self.network.address_of(name),
            "STOKER_WORKER__OFFER": json.dumps([f"cpu={self.fleet.offer}"]),
            "STOKER_WORKER__MODEL_DIRS": json.dumps([str(self.model.parent)]),
            "STOKER_WORKER__LLAMA_SERVER": str(self.engine / "llama-server"),
            "STOKER_WORKER__STALL_TIMEOUT": str(self.fleet.stall_timeout),
            "STOKER_WORKER__JOIN_TOKEN_FILE": str(token),
            "HF_HOME": str(data / "hub"),
        }
        return [*self.network.inside(name), *STOKER, "worker"], self._of_all | own

    def _join_token(self) -> str:
        """A token for one worker, where the server makes such, else the cluster's."""
        with self.api() as api:
            made = api.post("/join-tokens", json={})
        if made.status_code == 404:
            return (self.folder / "head" / "join-token").read_text()
        return str(made.raise_for_status().json()["token"])

    def _is_up(self) -> bool:
        try:
            checks = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).json()["checks"].values()
        except httpx.HTTPError:
            return False
        return all(check["status"] == "ok" for check in checks)

    # --- looking at it ------------------------------------------------------------------------------------------------

    def data(self, worker: str) -> Path:
        """The data folder of a host."""
        return self.folder / "hosts" / worker

    @property
    def admin_key(self) -> str:
        """The key that the first start left."""
        return (self.folder / "head" / "admin-key").read_text().strip()

    def api(self, *, timeout: float = 30.0) -> httpx.Client:
        """A client of the management API."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout, trust_env=False)

    def cli(self, *arguments: str, timeout: float = 120.0) -> str:
        """What a `stoker` command prints. Raises CalledProcessError."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
        environment |= self.environment | {"COLUMNS": "160", "STOKER_API_KEY": self.admin_key_if_there()}
        done = subprocess.run(
            [*STOKER, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    def admin_key_if_there(self) -> str:
        """The key, or nothing before the first start."""
        return self.admin_key if (self.folder / "head" / "admin-key").exists() else ""

    def ready_workers(self) -> list[str]:
        """The workers that may be given something."""
        try:
            with self.api(timeout=5) as api:
                workers = api.get("/workers").raise_for_status().json()["data"]
        except (httpx.HTTPError, OSError):
            return []
        return [worker["name"] for worker in workers if worker["state"] == "ready"]

    def deploy(self, **options: Any) -> None:
        """Deploys the model, and waits until it runs."""
        wanted = {"context_length": self.fleet.context_length, "slots": 4, "threads": 1}
        body = {"name": MODEL, "model": f"file:{self.model}", "cpu_offload": True, "options": wanted} | options
        with self.api() as api:
            api.post("/deployments", json=body).raise_for_status()
        self.eventually(self.running, "the model runs", seconds=120)

    def instance(self) -> dict[str, Any] | None:
        """The model's only instance as the API shows it; None when it cannot be asked, or there is none."""
        try:
            with self.api(timeout=5) as api:
                found = api.get(f"/deployments/{MODEL}").raise_for_status().json()["instances"]
        except (httpx.HTTPError, OSError):
            return None
        return found[0] if len(found) == 1 else None

    def running(self) -> dict[str, Any] | None:
        """The instance, when it is running."""
        found = self.instance()
        return found if found is not None and found["state"] == "running" else None

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of the database itself."""
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

    def logs(self) -> str:
        """The last words of all, for a fault that cannot be told otherwise."""
        paths = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)

    def eventually(self, look: Callable[[], T | None], what: str, *, seconds: float = 60.0) -> T:
        """What `look` returns as soon as it is true. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {what}; {self.instance()}\n{self.logs()}")
            time.sleep(0.1)
        return found
