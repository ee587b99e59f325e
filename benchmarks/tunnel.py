"""What it costs to reach an RPC server through the mesh: plain loopback against a link and a gateway on this machine.

- Bare bytes: one connection's throughput, the round trip of 64 bytes, and seconds of CPU for each GiB on either side.
- Requests: the API's own client asks an engine that answers at once, directly and through a gateway.
- llama.cpp: a model of random weights, of more than 1 GB, loaded by a llama-server over one ggml-rpc-server, then
  greedy generation. Plain and through the tunnel in turns, since other work on the machine disturbs both; the figures
  are the medians. `cpu_seconds` says who was busy meanwhile.

`--engine FOLDER` names llama-server's and ggml-rpc-server's folder; without it the installed engine is taken.
Ends with one JSON line. Aims: at least 0.6 of the plain load's throughput, at least 0.95 of its tokens per second.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import gguf
import httpx
import numpy as np
import psutil

from api.openai.connection import ConnectError
from api.openai.upstream import Pool
from stoker.certificates import Authority, new_key_and_request
from stoker.domain.units import GIB, MIB
from stoker.mesh.identity import MeshIdentity
from stoker.mesh.ways import LOOPBACK, GatewayService, Way
from tests.architectures.sketch import uniform
from tests.architectures.transformers import llama
from worker_agent.engine_choice import AUTO, choose_engine
from worker_agent.mesh.grants import Grants

SERVICE, MAIN_SERVICE = "rpc/bench.1", "main/bench.1"
GATEWAY_HOST, GATEWAY_PORT = "127.0.0.2", 18_411
THROUGH = GatewayService(GATEWAY_HOST, GATEWAY_PORT, "peer", MAIN_SERVICE)
REQUESTS, AT_ONCE = 4000, 16
DEADLINE = 300.0  # seconds that any one step may take
BULK = 2 * GIB
ROUND_TRIPS = 3000
ROUNDS = 3
TOKENS = 48

_SINK = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
buffer = memoryview(bytearray(1 << 20))
while True:
    one, _ = listener.accept()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = int.from_bytes(one.recv(8, socket.MSG_WAITALL), "big")
    while size and (got := one.recv_into(buffer)):
        size -= got
    one.sendall(b"k")
    while got := one.recv_into(buffer):
        one.sendall(buffer[:got])
    one.close()
"""


@dataclass
class Tunnel:
    """A link and a gateway, for one port of loopback."""

    port: int
    processes: Mapping[str, psutil.Process]


@dataclass
class Run:
    """One llama-server over one ggml-rpc-server."""

    load_seconds: float = 0.0
    tokens_per_second: float = 0.0
    load_cpu: dict[str, float] = field(default_factory=dict)
    token_cpu: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, help="folder with llama-server and ggml-rpc-server")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--without-llama", action="store_true", help="bare bytes and requests only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoker-tunnel-") as folder, ExitStack() as stack:
        scratch = Path(folder)
        authority = Authority.new(datetime.now(UTC))
        for name, holder in (("main", "worker/main"), ("peer", "worker/peer"), ("server", "server")):
            enrol(scratch / name, holder, authority)
        result: dict[str, object] = {"bytes": bare_bytes(scratch, stack), "requests": request_figures(scratch, stack)}
        if not given.without_llama:
            result["llama"] = llama_figures(given.engine or installed_engine(), scratch, given.rounds)
    print(json.dumps({"benchmark": "tunnel", "cores": os.cpu_count(), "load_average": os.getloadavg()[0], **result}))


def installed_engine() -> Path:
    """The folder of the engine that this machine has installed."""
    return Path(choose_engine(AUTO).engine.main_command([])[0]).parent


def enrol(folder: Path, holder: str, authority: Authority) -> None:
    """A member of the mesh."""
    key, request = new_key_and_request(holder)
    issued = authority.issue(request, holder, datetime.now(UTC))
    folder.mkdir()
    for file, text in (("key", key), ("certificate", issued.certificate), ("authority", authority.certificate)):
        (folder / f"{file}.pem").write_text(text)


@contextmanager
def tunnel(scratch: Path, port: int) -> Iterator[Tunnel]:
    """The way from "main" to the port of "peer"."""
    Grants(scratch / "peer").grant(SERVICE, port, ["worker/main"])
    ready, spec = scratch / "ready.json", scratch / "link.json"
    ready.unlink(missing_ok=True)
    peer = {"worker": "peer", "host": GATEWAY_HOST, "port": GATEWAY_PORT}
    task = {"folder": str(scratch / "main"), "service": SERVICE, "peers": [peer], "ready_file": str(ready)}
    spec.write_text(json.dumps(task))
    programs = {
        "gateway": ["worker_agent.mesh.gateway", str(scratch / "peer"), GATEWAY_HOST, str(GATEWAY_PORT)],
        "link": ["worker_agent.mesh.link", str(spec)],
    }
    started = {name: _start([sys.executable, "-P", "-m", *arguments]) for name, arguments in programs.items()}
    try:
        wait(ready.exists, "the link to be ready")
        yield Tunnel(
            json.loads(ready.read_text())["ports"][0], {name: psutil.Process(one.pid) for name, one in started.items()}
        )
    finally:
        for process in reversed(started.values()):
            process.terminate()
            process.wait(DEADLINE)


def bare_bytes(scratch: Path, stack: ExitStack) -> dict[str, object]:
    """Without llama.cpp."""
    sink = subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE)
    stack.callback(sink.wait)
    stack.callback(sink.kill)
    assert sink.stdout is not None
    port = int(sink.stdout.readline())
    plain = _carried(port)
    with tunnel(scratch, port) as way:
        before = _cpu(way.processes)
        tunnelled = _carried(way.port)
        used = {name: (now - before[name]) / (BULK / GIB) for name, now in _cpu(way.processes).items()}
        memory = {name: one.memory_info().rss // MIB for name, one in way.processes.items()}
    return {
        "plain": plain,
        "tunnel": tunnelled,
        "cpu_seconds_per_gib": _rounded(used),
        "memory_mib": memory,
    }


def _carried(port: int) -> dict[str, float]:
    block = memoryview(os.urandom(MIB))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        connection.sendall(BULK.to_bytes(8, "big"))
        for _ in range(BULK // MIB):
            connection.sendall(block)
        assert connection.recv(1) == b"k"
        seconds = time.perf_counter() - began
        trips = []
        for _ in range(ROUND_TRIPS):
            began = time.perf_counter()
            connection.sendall(block[:64])
            assert len(connection.recv(64, socket.MSG_WAITALL)) == 64
            trips.append(time.perf_counter() - began)
    return _rounded({"mib_per_second": BULK / MIB / seconds, "round_trip_us": statistics.median(trips) * 1e6})


def request_figures(scratch: Path, stack: ExitStack) -> dict[str, object]:
    """The API's client and one engine, REQUESTS in all from AT_ONCE callers."""
    port = _free_port()
    engine = _engine(stack, sys.executable, "-m", "tests.fakes.engine", port, "ok")
    wait(lambda: _listens(engine), "the engine to listen")
    Grants(scratch / "peer").grant(MAIN_SERVICE, port, ["server"])
    with tunnel(scratch, port):
        wait(lambda: asyncio.run(_is_open(scratch)), "the gateway to know the engine")
        direct, through = (asyncio.run(_asked(scratch, way)) for way in ((LOOPBACK, port), THROUGH))
    return {"direct": direct, "gateway": through, "callers": AT_ONCE}


async def _is_open(scratch: Path) -> bool:
    pool = Pool(MeshIdentity(scratch / "server"))
    try:
        (await pool.connect(THROUGH, DEADLINE)).close()
    except ConnectError:
        return False
    finally:
        await pool.aclose()
    return True


async def _asked(scratch: Path, way: Way) -> dict[str, float]:
    pool, taken = Pool(MeshIdentity(scratch / "server")), []

    async def call(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            exchange = pool.exchange(
                way, "POST", "/v1/chat/completions", [(b"content-type", b"application/json")], b"{}"
            )
            await exchange.start()
            await exchange.read_all(MIB)
            taken.append(time.perf_counter() - began)

    await call(100)
    taken.clear()
    began = time.perf_counter()
    await asyncio.gather(*(call(REQUESTS // AT_ONCE) for _ in range(AT_ONCE)))
    rate = len(taken) / (time.perf_counter() - began)
    taken.clear()
    await call(REQUESTS // 10)
    alone = statistics.median(taken) * 1000
    await pool.aclose()
    return _rounded({"requests_per_second": rate, "milliseconds_alone": alone})


def llama_figures(binaries: Path, scratch: Path, rounds: int) -> dict[str, object]:
    """With llama.cpp."""
    model = write_model(scratch / "model.gguf")
    run(binaries, model, scratch, through=False)  # warms the file's pages
    runs: dict[bool, list[Run]] = {False: [], True: []}
    for number in range(rounds * 2):
        through = number % 4 in (1, 2)  # plain, tunnel, tunnel, plain: so that neither is always the later one
        runs[through].append(run(binaries, model, scratch, through=through))
        print(f"{'tunnel' if through else 'plain'}: {runs[through][-1]}", file=sys.stderr)
    size = model.stat().st_size
    plain, tunnelled = (_summary(runs[through], size) for through in (False, True))
    return {
        "model_bytes": size,
        "plain": plain,
        "tunnel": tunnelled,
        "load_share": round(tunnelled["load_mib_per_second"] / plain["load_mib_per_second"], 3),
        "token_share": round(tunnelled["tokens_per_second"] / plain["tokens_per_second"], 3),
        "cpu_seconds_of_load": _medians([one.load_cpu for one in runs[True]]),
        "cpu_seconds_of_tokens": _medians([one.token_cpu for one in runs[True]]),
        "cpu_seconds_of_plain_load": _medians([one.load_cpu for one in runs[False]]),
    }


def write_model(path: Path) -> Path:
    """A llama of 1.1 billion parameters: matrices of random Q8_0, norms of 1."""
    sketch = llama(layers=22, embedding=2048, heads=32, heads_kv=4, feed_forward=5632, vocabulary=32_000, context=2048)
    sketch.write(path, uniform("Q8_0"))
    generator = np.random.default_rng(7)
    blocks = np.zeros(1 << 18, dtype=[("scale", "<f2"), ("values", "i1", 32)])
    blocks["scale"] = 0.0004
    blocks["values"] = generator.integers(-127, 128, (len(blocks), 32))
    random = blocks.tobytes()
    with path.open("r+b") as file:
        for tensor in gguf.GGUFReader(path).tensors:
            file.seek(int(tensor.data_offset))
            left = int(tensor.n_bytes)
            if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
                file.write(np.ones(left // 4, dtype="<f4").tobytes())
                continue
            while left:
                left -= file.write(random[:left])
    return path


def run(binaries: Path, model: Path, scratch: Path, *, through: bool) -> Run:
    """Loads the model and generates."""
    with ExitStack() as stack:
        rpc_port, main_port = _free_port(), _free_port()
        rpc = _engine(stack, binaries / "ggml-rpc-server", "-H", "127.0.0.1", "-p", str(rpc_port))
        wait(lambda: _listens(rpc), "ggml-rpc-server to listen")
        processes = {"rpc": psutil.Process(rpc.pid)}
        port = rpc_port
        if through:
            way = stack.enter_context(tunnel(scratch, rpc_port))
            port = way.port
            processes |= way.processes
        client = httpx.Client(base_url=f"http://127.0.0.1:{main_port}", timeout=DEADLINE, trust_env=False)
        stack.enter_context(client)
        began, before = time.perf_counter(), _cpu(processes)
        main_server = _engine(
            stack, binaries / "llama-server",
            *("-m", str(model), "--rpc", f"127.0.0.1:{port}", "--device", "RPC0", "-ngl", "all", "-fit", "off"),
            *("-c", "512", "-np", "1", "--no-warmup", "--host", "127.0.0.1", "--port", str(main_port)),
        )  # fmt: skip
        processes["main"] = psutil.Process(main_server.pid)
        wait(lambda: _is_healthy(client), "llama-server to load", pause=0.02)
        done = Run(load_seconds=time.perf_counter() - began)
        done.load_cpu = _since(before, processes)
        before = _cpu(processes)
        question = {"prompt": list(range(100, 132)), "n_predict": TOKENS, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(
            f"http://127.0.0.1:{main_port}/completion", json=question, timeout=DEADLINE, trust_env=False
        )
        done.tokens_per_second = answer.raise_for_status().json()["timings"]["predicted_per_second"]
        done.token_cpu = _since(before, processes)
    return done


def wait(ready: Callable[[], bool], what: str, pause: float = 0.05) -> None:
    """Until `ready` says so. Raises TimeoutError after DEADLINE."""
    deadline = time.monotonic() + DEADLINE
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE} s for {what}")
        time.sleep(pause)


def _engine(stack: ExitStack, *command: object) -> "subprocess.Popen[bytes]":
    process = _start([str(part) for part in command])
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, restore_signals=False, env=environment)


def _listens(process: "subprocess.Popen[bytes]") -> bool:
    return any(one.status == psutil.CONN_LISTEN for one in psutil.Process(process.pid).net_connections("tcp"))


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _cpu(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(one.cpu_times()[:2]) for name, one in processes.items()}


def _since(before: Mapping[str, float], processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    return {name: now - before.get(name, 0.0) for name, now in _cpu(processes).items()}


def _summary(runs: list[Run], size: int) -> dict[str, float]:
    load = statistics.median(one.load_seconds for one in runs)
    tokens = statistics.median(one.tokens_per_second for one in runs)
    return _rounded({"load_seconds": load, "load_mib_per_second": size / MIB / load, "tokens_per_second": tokens})


def _medians(counts: list[dict[str, float]]) -> dict[str, float]:
    return _rounded({name: statistics.median(one[name] for one in counts) for name in counts[0]})


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
