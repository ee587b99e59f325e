"""The proxies that are compared, each with its processes on one core, in front of the same engine.

nginx is taken from PATH, else fetched from Debian (`apt-get download`, unpacked into .build/door, nothing installed).
LiteLLM is installed from PyPI into an environment of its own there.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.stage.door.asked import BURST_MODEL, MODEL, PACED_MODEL
from benchmarks.stage.door.programs import MissingError, build_folder, pinned
from stoker.domain.units import MIB

LITELLM_VERSION = "1.106.2"
STARTS_WITHIN_SECONDS = 120.0
_MASTER_KEY = "sk-of-the-benchmark"

_NGINX = """
daemon off; worker_processes 1; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_body_buffer_size 128k;
    keepalive_requests 100000000;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://engine; }} }}
}}
"""

_LITELLM_MODEL = """
  - model_name: {name}
    litellm_params: {{model: openai/{name}, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}"""
_LITELLM = """
model_list:{models}
general_settings: {{master_key: {key}}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


@dataclass
class Proxy:
    """One that runs. Without a process it is the engine itself."""

    name: str
    port: int
    key: str = ""
    process: psutil.Process | None = None

    def processes(self) -> list[psutil.Process]:
        """Its first process, and all that come from it."""
        if self.process is None:
            return []
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Of all its processes until now."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes())

    def memory_mib(self) -> tuple[float, float]:
        """Resident memory: of its largest process, which is the one that answers, and of all together."""
        sizes = [one.memory_info().rss / MIB for one in self.processes()] or [0.0]
        return max(sizes), sum(sizes)

    def stop(self) -> None:
        """Holds its processes, so that what they do by themselves disturbs no other's measurement."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets them run."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


@contextmanager
def started(
    name: str,
    port: int,
    command: list[str],
    folder: Path,
    *,
    key: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """A proxy that listens, until the end. Its output goes to `folder`/NAME.log."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(environment or {})})
    proxy = Proxy(name, port, key, psutil.Process(process.pid))
    try:
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while not _answers(port, key):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not answer on port {port}:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield proxy
    finally:
        family = []
        if process.poll() is None:
            family = proxy.processes()
            proxy.go_on()
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _answers(port: int, key: str) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "?"}]}
    url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.post(url, json=body, headers=headers, timeout=10.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


@contextmanager
def nginx(folder: Path, port: int, engine: int, core: int) -> Iterator[Proxy]:
    """One worker, connections kept on both sides. What does not stream it buffers; llama-server tells it what does."""
    user = f"user {Path.home().owner()};" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, engine=engine, user=user))
    command = pinned(core, [_nginx_program(), "-p", folder, "-e", folder / "error.log", "-c", config])
    with started("nginx", port, command, folder) as proxy:
        yield proxy


def _nginx_program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    folder = build_folder() / "nginx"
    program = folder / "usr/sbin/nginx"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("nginx is not on PATH: fetching Debian's", file=sys.stderr)
        try:
            subprocess.run(["apt-get", "-qq", "download", "nginx"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
            (package,) = folder.glob("nginx_*.deb")
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            raise MissingError(
                "nginx is neither on PATH nor had by `apt-get download nginx`: apt-get update && apt-get install nginx"
            ) from error
    return str(program)


@contextmanager
def litellm(folder: Path, port: int, engine: int, core: int) -> Iterator[Proxy]:
    """One worker, one key; no database, so that it neither keeps usage nor limits."""
    models = "".join(_LITELLM_MODEL.format(name=name, engine=engine) for name in (MODEL, PACED_MODEL, BURST_MODEL))
    config = folder / "litellm.yaml"
    config.write_text(_LITELLM.format(models=models, key=_MASTER_KEY))
    program = [_litellm_folder() / "bin/litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    command = pinned(core, [*program, "--num_workers", "1", "--telemetry", "False"])
    with started("litellm", port, command, folder, key=_MASTER_KEY, environment=environment) as proxy:
        yield proxy


def _litellm_folder() -> Path:
    folder = build_folder() / f"litellm-{LITELLM_VERSION}"
    if not (folder / "bin/litellm").exists():
        uv = shutil.which("uv") or shutil.which("uv", path=str(build_folder().parent / "uv/bin"))
        if uv is None:
            raise MissingError("uv is neither on PATH nor in .build/uv (`make setup` puts it there)")
        print(f"installing LiteLLM {LITELLM_VERSION} into {folder}", file=sys.stderr)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        package = f"litellm[proxy]=={LITELLM_VERSION}"
        subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", package], check=True)
    return folder
