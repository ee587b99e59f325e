"""The whole system as a user runs it: `stoker up` in a process of its own, and the ways to talk to it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from openai import OpenAI

T = TypeVar("T")

STOKER = [sys.executable, "-m", "entrypoints.cli.main"]
UP_WITHIN_SECONDS = 180.0
DOWN_WITHIN_SECONDS = 60.0


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


class System:
    """A running `stoker up`."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port, self.temporal_port, self.ui_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self.environment = {**os.environ, "STOKER_DATA_DIR": str(folder), "STOKER_API__PORT": str(self.port)}
        # The bundled engine, whatever is installed on this machine, unless a test asks for another.
        self.environment |= {"NO_COLOR": "1", "STOKER_WORKER__ENGINE": "bundled", **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._clients: list[OpenAI] = []

    def start(self) -> None:
        """Starts, and returns when it says that it is up."""
        ports = ["--temporal-port", str(self.temporal_port), "--temporal-ui-port", str(self.ui_port)]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "up.out").open("w") as out:
            self._process = subprocess.Popen(
                [*STOKER, "up", *ports, *self._arguments],
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        eventually(self._says_up, self.logs, seconds=UP_WITHIN_SECONDS)

    def _says_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"`stoker up` ended with {self._process.returncode}:\n{self.logs()}")
        return "Stoker is up." in (self.folder / "up.out").read_text()

    def stop(self) -> None:
        """Stops as Ctrl-C does, and makes sure that nothing is left."""
        if self._process is None:
            return
        family = [self._process.pid, *self.pids().values(), *self.engine_pids()]
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(DOWN_WITHIN_SECONDS) == 0, self.logs()
        left = [pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        assert not left, f"left running: {[psutil.Process(pid).cmdline() for pid in left]}"
        self._process = None

    @property
    def pid(self) -> int:
        """The supervisor's own pid."""
        assert self._process is not None
        return self._process.pid

    def close_clients(self) -> None:
        """Closes the clients of all tests."""
        while self._clients:
            self._clients.pop().close()

    def kill(self) -> None:
        """Kills the supervisor alone, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def pids(self) -> dict[str, int]:
        """The supervisor's processes by name."""
        found: dict[str, int] = json.loads((self.folder / "processes.json").read_text())
        return found

    def engine_pids(self) -> list[int]:
        """All living engines that were started from this data folder."""
        mark = str(self.folder)
        return [
            process.pid
            for process in psutil.process_iter(["cmdline", "status"])
            if re.search(r"worker_agent\.bundled|/llama-server ", " ".join(process.info["cmdline"] or []))
            and process.info["status"] != "zombie"
            and mark in _environment_of(process)
        ]

    def logs(self) -> str:
        """What all processes said, for a failed test."""
        paths = [self.folder / "up.out", *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in paths if path.exists())

    @property
    def admin_key(self) -> str:
        """The key that the first start left."""
        return (self.folder / "admin-key").read_text().strip()

    def api(self) -> httpx.Client:
        """A client of the management API."""
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=120.0, trust_env=False)

    def openai(self, **options: Any) -> OpenAI:
        """The official client, unchanged; with the admin key unless `api_key` is another. `close_clients` closes it."""
        client = OpenAI(**{"base_url": f"{self.url}/v1", "api_key": self.admin_key, **options})
        self._clients.append(client)
        return client

    def cli(self, *arguments: str, check: bool = True, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a `stoker` command as a user would."""
        done = subprocess.run(
            [*STOKER, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done

    def deployment(self, name: str) -> dict[str, Any] | None:
        """The deployment as the API shows it, or None."""
        with self.api() as api:
            answer = api.get(f"/deployments/{name}")
        return None if answer.status_code == 404 else answer.raise_for_status().json()

    def claims(self) -> dict[str, int]:
        """Claimed bytes by worker/device, those above 0 only."""
        with self.api() as api:
            workers = api.get("/workers").raise_for_status().json()["data"]
        return {
            f"{worker['name']}/{device['id']}": device["claimed_bytes"]
            for worker in workers
            for device in worker["devices"]
            if device["claimed_bytes"]
        }

    def running(self, name: str, replicas: int = 1, *, seconds: float = 90.0) -> list[dict[str, Any]]:
        """Waits until exactly so many instances are there and run; returns them."""

        def look() -> list[dict[str, Any]] | None:
            try:
                found = self.deployment(name)
            except httpx.HTTPError:
                return None
            instances = found["instances"] if found else []
            right = len(instances) == replicas and all(instance["state"] == "running" for instance in instances)
            return instances if right else None

        return eventually(look, lambda: f"{self.deployment(name)}\n{self.logs()}", seconds=seconds)

    def gone(self, name: str) -> None:
        """Waits until nothing of the deployment is left."""
        eventually(lambda: self.deployment(name) is None, lambda: f"{self.deployment(name)}\n{self.logs()}")

    def answers(self, model: str) -> bool:
        """Whether the model answers one short request now."""
        try:
            with self.openai(max_retries=0, timeout=20) as client:
                client.completions.create(model=model, prompt="a", max_tokens=1)
        except Exception:  # noqa: BLE001 - whatever it is, it is no answer
            return False
        return True


@contextmanager
def running_system(folder: Path, *arguments: str, **options: Any) -> Iterator[System]:
    """A system that is stopped at the end, whatever happens."""
    system = System(folder, *arguments, **options)
    try:
        system.start()
        yield system
    finally:
        system.close_clients()
        system.stop()


def eventually(look: Callable[[], T | None], describe: Callable[[], object], *, seconds: float = 60.0) -> T:
    """What `look` returns as soon as it is true. Fails at the deadline with what `describe` says."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {describe()}")
        time.sleep(0.03)
    return found


def _environment_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.environ().values())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
