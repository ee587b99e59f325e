"""A whole system on this machine, each part a process of its own: Temporal, PostgreSQL, the API in several processes,
the control plane, an agent, and real engines. Any part may be stopped and started again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.faults.kept_system import LOOPBACK, STOKER, KeptSystem
from worker_agent.processes import MARK

NOWHERE = "http://127.0.0.1:9"
"""An address at which nobody listens: no run asks the hub."""


class LiveSystem(KeptSystem):
    """One worker, and as many models as it has room for."""

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
        super().__init__(folder)
        self._processes, self._model_dirs, self._llama_server = processes, model_dirs, llama_server
        self._offer, self._hub = offer, hub

    def _start(self) -> None:
        of_all = {"HF_ENDPOINT": self._hub, "HF_HUB_DISABLE_TELEMETRY": "1"}
        of_head = {"STOKER_API__PROCESSES": str(self._processes), "HF_HOME": str(self.head / "hub")}
        self._start_head(LOOPBACK, of_all, of_head)
        self.agent = self._keep("agent", [*STOKER, "worker"], self._of_all | self._of_agent())
        self.eventually(self.ready_workers, "the worker has joined")

    def _end_what_outlives(self) -> None:
        for process in self._marked():  # engines and gateways outlive their agent on purpose
            process.kill()

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

    # --- talking to it ------------------------------------------------------------------------------------------------

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

    def running(self, name: str) -> list[dict[str, Any]]:
        """Those of them that run."""
        return [instance for instance in self.instances(name) if instance["state"] == "running"]

    # --- looking at it ------------------------------------------------------------------------------------------------

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
