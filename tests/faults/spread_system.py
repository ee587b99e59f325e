"""A whole system over several machines that are not there: an agent on each host of a network of namespaces, and all
else here. Each is a process of its own, as an administrator runs it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.kept import Kept
from tests.faults.kept_system import RESTART_SECONDS, STOKER, KeptSystem
from tests.faults.network import Network

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


class SpreadSystem(KeptSystem):
    """One model, on several of its hosts."""

    def __init__(self, folder: Path, engine: Path, model: Path, fleet: Fleet = Fleet()) -> None:
        """`engine`: the folder of llama-server and ggml-rpc-server. `folder` must be empty, or not be there."""
        super().__init__(folder, restart_seconds=fleet.restart_seconds)
        self.engine, self.model, self.fleet = engine, model, fleet
        self.agents: dict[str, Kept] = {}

    def _start(self) -> None:
        self.network = Network([*self.fleet.workers, *self.fleet.strangers])
        of_all = {"STOKER_LOG_LEVEL": self.fleet.log_level, "STOKER_WORKER_GRACE": str(self.fleet.worker_grace)}
        self._start_head(self.network.address, of_all, {})
        for name in self.fleet.workers:
            self.agents[name] = self._keep(name, *self._agent(name))
        self.eventually(lambda: len(self.ready_workers()) == len(self.fleet.workers), "all workers have joined")

    def _end_what_outlives(self) -> None:
        if hasattr(self, "network"):
            self.network.close()  # and with it what runs on its hosts

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
            return (self.head / "join-token").read_text()
        return str(made.raise_for_status().json()["token"])

    def data(self, worker: str) -> Path:
        """The data folder of a host."""
        return self.folder / "hosts" / worker

    def deploy(self, **options: Any) -> None:
        """Deploys the model, and waits until it runs."""
        wanted = {"context_length": self.fleet.context_length, "slots": 4, "threads": 1}
        body = {"name": MODEL, "model": f"file:{self.model}", "cpu_offload": True, "options": wanted} | options
        with self.api() as api:
            api.post("/deployments", json=body).raise_for_status()
        self.eventually(self.running, "the model runs", seconds=120)

    def instance(self) -> dict[str, Any] | None:
        """The model's only instance as the API shows it; None when it cannot be asked, or there is none."""
        found = self.instances(MODEL)
        return found[0] if len(found) == 1 else None

    def running(self) -> dict[str, Any] | None:
        """The instance, when it is running."""
        found = self.instance()
        return found if found is not None and found["state"] == "running" else None

    def last_words(self) -> str:
        """The instance, and the last words of all processes."""
        return f"{self.instance()}\n{super().last_words()}"
