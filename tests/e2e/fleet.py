"""A system of several workers on this machine: each with its own data folder, address on loopback and declared room."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.system import DOWN_WITHIN_SECONDS, STOKER, System, eventually
from worker_agent.engine_store import InstalledEngine
from worker_agent.processes import MARK

NAMES = ("w1", "w2", "w3")


class Fleet(System):
    """`stoker up` with w1, and a `stoker worker` for each of the others."""

    def __init__(
        self, folder: Path, rooms: Mapping[str, str], *, model_dir: Path, environment: Mapping[str, str]
    ) -> None:
        """`rooms`: what each worker offers of its RAM, the first one's is `stoker up`'s own."""
        self._first, *self._others = rooms
        self._rooms, self._model_dir = rooms, model_dir
        own = ["--worker-name", self._first, "--offer", f"cpu={rooms[self._first]}", "--model-dir", str(model_dir)]
        super().__init__(folder / "up", *own, environment=environment)
        self.root = folder
        self.agents: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        """Starts, and returns when all workers may lend and use devices."""
        super().start()
        for name in self._others:
            self.start_agent(name)
        eventually(lambda: len(self.lending()) == len(self._rooms), lambda: f"{self.lending()}\n{self.logs()}")

    def start_agent(self, name: str) -> None:
        """The agent of one of the others."""
        number = 1 + list(self._rooms).index(name)
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        environment = {**self.environment, "STOKER_TEMPORAL__ADDRESS": f"127.0.0.1:{self.temporal_port}"}
        del environment["STOKER_DATA_DIR"]
        command = [
            *STOKER,
            *("worker", "--name", name, "--server", self.url, "--address", f"127.0.0.{number}"),
            *("--data-dir", str(folder), "--offer", f"cpu={self._rooms[name]}", "--model-dir", str(self._model_dir)),
            *("--join-token-file", str(self.folder / "join-token")),
        ]
        with (self.root / f"{name}.log").open("a") as out:
            self.agents[name] = subprocess.Popen(
                command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
            )

    def stop(self) -> None:
        """Stops all of it, and makes sure that nothing is left: gateways outlive their agents on purpose."""
        for agent in self.agents.values():
            agent.terminate()
        for agent in self.agents.values():
            agent.wait(DOWN_WITHIN_SECONDS)
        try:
            super().stop()
        finally:
            for process in self.processes():
                process.kill()

    def lending(self) -> list[str]:
        """The workers that may be members of groups now."""
        with self.api() as api:
            workers = api.get("/workers").raise_for_status().json()["data"]
        return [worker["name"] for worker in workers if worker["serves_rpc"]]

    def processes(self) -> list[psutil.Process]:
        """All living processes that agents of this fleet have started, gateways included."""
        found = []
        for process in psutil.process_iter(["status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE and str(self.root) in _mark_of(process):
                found.append(process)
        return found

    def roles(self, worker: str | None = None) -> dict[str, int]:
        """The pid of each process of an instance by `<worker>/<role>`; of one worker or of all."""
        found = {}
        for process in self.processes():
            record = Path(_mark_of(process))
            if record.parent.name == "processes":
                owner, role = record.parent.parent.name, record.name.split(".")[-2]
                if worker in (None, owner):
                    found[f"{owner}/{role}"] = process.pid
        return found

    def logs(self) -> str:
        """What all said, for a failed test."""
        own = [self.root / f"{name}.log" for name in self._others]
        engines = sorted(self.root.glob("**/worker/*/logs/*.log"))
        texts = [
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in (*own, *engines) if path.exists()
        ]
        return "\n".join([super().logs(), *texts])


@contextmanager
def running_fleet(
    folder: Path, rooms: Mapping[str, str], engine: InstalledEngine, *, model_dir: Path, **more: Any
) -> Iterator[Fleet]:
    """A fleet on the native engine that is stopped at the end, whatever happens. `more`: settings by their names."""
    store = folder / "cache" / "stoker" / "engines"  # only this engine: the machine may have others
    store.mkdir(parents=True)
    (store / engine.manifest.name).symlink_to(engine.folder)
    environment = {"STOKER_WORKER__ENGINE": "auto", "XDG_CACHE_HOME": str(folder / "cache"), **more}
    fleet = Fleet(folder, rooms, model_dir=model_dir, environment=environment)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


def _mark_of(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def kill_all(pids: Sequence[int]) -> None:
    """kill -9, at once."""
    for pid in pids:
        os.kill(pid, 9)
