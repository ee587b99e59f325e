"""What every whole system for a long run has: Temporal, PostgreSQL, the API and the control plane, each a process of
its own that is kept running. A subclass adds the machines.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
STOKER = [sys.executable, "-P", "-m", "entrypoints.cli.main"]
RESTART_SECONDS = 3.0  # what systemd is told in most units
LOOPBACK = "127.0.0.1"


class KeptSystem:
    """All of it, as a context: it is up inside the block, and nothing is left of it afterwards."""

    def __init__(self, folder: Path, *, restart_seconds: float = RESTART_SECONDS) -> None:
        """`folder` must be empty, or not be there."""
        self.folder, self.head = folder, folder / "head"
        self._restart_seconds = restart_seconds
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
        self._end_what_outlives()
        if hasattr(self, "database"):
            self.database.close()
            self.postgres.close()

    def _start(self) -> None:
        """Everything: `_start_head`, and what is a subclass's own."""
        raise NotImplementedError

    def _end_what_outlives(self) -> None:
        """What is a subclass's own and no kept process, also when it was never started."""
        raise NotImplementedError

    def _start_head(self, address: str, of_all: Mapping[str, str], of_head: Mapping[str, str]) -> None:
        """All but the machines, listening at `address`; the settings are those of every process, and of these alone."""
        self.postgres = Postgres(self.folder / "postgres")
        self.database = Database(self.postgres.url)
        self.port, temporal_port, ui_port = free_ports(3)
        self.url = f"http://{address}:{self.port}"
        self.head.mkdir(mode=0o700)
        command = temporal_command(Settings(data_dir=self.head, temporal={"port": temporal_port, "ui_port": ui_port}))
        if address != LOOPBACK:
            command[command.index("--ip") + 1] = "0.0.0.0"  # noqa: S104 - on one address alone it does not find itself
        self.temporal = self._keep("temporal", command, {}, restart_after=0.0)
        self._of_all = {
            "STOKER_TEMPORAL__ADDRESS": f"{address}:{temporal_port}",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            **of_all,
        }
        self.environment = {
            **self._of_all,
            "STOKER_DATA_DIR": str(self.head),
            "STOKER_DATABASE__URL": self.postgres.url,
            "STOKER_API__HOST": address,
            "STOKER_API__PORT": str(self.port),
            **of_head,
        }
        self.cli("migrate")
        self.control_plane = self._keep("control-plane", [*STOKER, "control-plane"], self.environment)
        self.server = self._keep("server", [*STOKER, "server"], self.environment)
        self.eventually(self._is_up, "the API and Temporal answer", seconds=90)

    def _keep(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, restart_after: float | None = None
    ) -> Kept:
        after = self._restart_seconds if restart_after is None else restart_after
        log = self.folder / "logs" / f"{name}.log"
        return self._keeper.keep(Kept(name, command, environment, log, restart_after=after))

    def _is_up(self) -> bool:
        try:
            checks = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).json()["checks"].values()
        except (httpx.HTTPError, ValueError):
            return False
        return all(check["status"] == "ok" for check in checks)

    # --- talking to it ------------------------------------------------------------------------------------------------

    @property
    def admin_key(self) -> str:
        """The key that the first start left."""
        return (self.head / "admin-key").read_text().strip()

    def api(self, *, timeout: float = 30.0) -> httpx.Client:
        """A client of the management API."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout, trust_env=False)

    def cli(self, *arguments: str, timeout: float = 120.0) -> str:
        """What a `stoker` command prints, 160 characters wide. Raises CalledProcessError."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
        environment = own | self.environment | {"COLUMNS": "160"}
        done = subprocess.run(
            [*STOKER, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout

    # --- looking at it ------------------------------------------------------------------------------------------------

    def ready_workers(self) -> list[str]:
        """The workers that may be given something; none when it cannot be asked."""
        try:
            with self.api(timeout=5) as api:
                workers = api.get("/workers").raise_for_status().json()["data"]
        except (httpx.HTTPError, OSError):
            return []
        return [worker["name"] for worker in workers if worker["state"] == "ready"]

    def instances(self, name: str) -> list[dict[str, Any]]:
        """The deployment's instances as the API shows them; none when it cannot be asked."""
        try:
            with self.api(timeout=5) as api:
                found: list[dict[str, Any]] = api.get(f"/deployments/{name}").raise_for_status().json()["instances"]
        except (httpx.HTTPError, OSError):
            return []
        return found

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Rows of the database itself; `values` stand in the query as `:name`."""
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query), values).mappings()]

    def log(self, name: str) -> str:
        """What one of the processes has said so far."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def last_words(self) -> str:
        """Of all, for a fault that cannot be told otherwise."""
        paths = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)

    def eventually(self, look: Callable[[], T | None], what: str, *, seconds: float = 60.0) -> T:
        """What `look` returns as soon as it is true. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {what}\n{self.last_words()}")
            time.sleep(0.1)
        return found
