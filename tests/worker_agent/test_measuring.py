"""What an engine took, by its log, the host and the driver."""

import asyncio
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from activities.ports import ProcessPhase
from stoker.domain.measurements import Buffers
from stoker.domain.units import MIB
from tests.builders import write_tiny_llama
from tests.worker_agent.conftest import KEY, OpenSupervisor, make_server, reached
from worker_agent import measuring
from worker_agent.logs import rotate
from worker_agent.measuring import measure_memory, read_load

pytestmark = pytest.mark.anyio

COMMAND = "2026-11-21T03:00:00+00:00 llama-server -m model.gguf\n"
WEIGHTS = "0.00.187.161 I load_tensors:   CPU_Mapped model buffer size =    92.00 MiB\n"
CACHE = "0.00.187.349 I llama_kv_cache:        CPU KV buffer size =    45.00 MiB\n"
LISTENS = "0.00.339.811 I srv  llama_server: listening on http://127.0.0.1:41949\n"
LOADED = {"CPU_Mapped": Buffers(weights=92 * MIB), "CPU": Buffers(cache=45 * MIB)}


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """The log of an engine that serves."""
    path = tmp_path / "llama-0.1.main.log"
    path.write_text(COMMAND + WEIGHTS + CACHE + LISTENS)
    return path


def test_the_load_ends_where_it_listens(log_file: Path) -> None:
    with log_file.open("a") as file:
        file.write("a request's words: " + CACHE)
    found, whole = read_load(log_file)
    assert found is not None
    assert (dict(found.buffers), whole) == (LOADED, True)


def test_a_log_that_may_tell_more(log_file: Path) -> None:
    log_file.write_text(COMMAND + WEIGHTS)
    found, whole = read_load(log_file)
    assert found is not None
    assert (dict(found.buffers), whole) == ({"CPU_Mapped": LOADED["CPU_Mapped"]}, False)


def test_the_rest_of_a_line_that_is_too_long_is_no_line(log_file: Path) -> None:
    name = "0.00.187.000 I print_info: general.name          = "
    name += "x" * (measuring._LINE_BYTES - len(name)) + CACHE.replace("45.00", "99.00").replace("187.349", "187.100")
    log_file.write_text(COMMAND + name + WEIGHTS + CACHE + LISTENS)
    found, whole = read_load(log_file)
    assert found is not None
    assert (dict(found.buffers), whole) == (LOADED, True)


def test_a_log_that_contradicts_itself_says_no_more(log_file: Path) -> None:
    log_file.write_text(COMMAND + CACHE + WEIGHTS)
    assert read_load(log_file) == (None, True)


def test_no_log_is_too_large(log_file: Path) -> None:
    log_file.write_text(COMMAND + WEIGHTS)
    os.truncate(log_file, 1 << 30)  # one endless line of zeros
    with log_file.open("a") as file:
        file.write(f"\n{CACHE}{LISTENS}")
    read_load(log_file)
    tracemalloc.start()
    try:
        found, whole = read_load(log_file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found is not None
    assert (dict(found.buffers), whole) == ({"CPU_Mapped": LOADED["CPU_Mapped"]}, True)
    assert peak < MIB // 2


async def test_with_what_the_host_and_the_driver_count(log_file: Path) -> None:
    asked: list[int] = []

    def device_use(pid: int) -> dict[str, int]:
        asked.append(pid)
        return {"gpu0": 300 * MIB}

    memory = await measure_memory(log_file, os.getpid(), device_use)
    assert memory is not None
    assert dict(memory.buffers) == LOADED
    assert memory.process_resident > 10 * MIB
    assert (memory.devices_used, asked) == ({"gpu0": 300 * MIB}, [os.getpid()])


async def test_the_rest_of_the_load_is_waited_for(log_file: Path) -> None:
    log_file.write_text(COMMAND + WEIGHTS)
    measured = asyncio.create_task(measure_memory(log_file, os.getpid()))
    await asyncio.sleep(0)  # it has begun
    with log_file.open("a") as file:
        file.write(CACHE + LISTENS)
    memory = await measured
    assert memory is not None
    assert dict(memory.buffers) == LOADED


async def test_an_engine_that_never_says_that_it_listens(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LOAD_SECONDS", 0.05)
    log_file.write_text(COMMAND + WEIGHTS + CACHE)
    memory = await measure_memory(log_file, os.getpid())
    assert memory is not None
    assert dict(memory.buffers) == LOADED


async def test_a_log_that_was_turned_over(log_file: Path) -> None:
    for _ in range(2):
        assert rotate(log_file, limit=0)
        log_file.write_text("requests\n")
        memory = await measure_memory(log_file, os.getpid())
        assert memory is not None
        assert dict(memory.buffers) == LOADED


@pytest.mark.parametrize("content", [None, "", "requests\n"])
async def test_where_the_log_tells_nothing(
    log_file: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_LOAD_SECONDS", 0.05)
    if content is None:
        log_file.unlink()
    else:
        log_file.write_text(content)
    with capture_logs() as logs:
        assert await measure_memory(log_file, os.getpid()) is None
    assert [(entry["event"], entry["process"]) for entry in logs] == [("memory_not_measured", "llama-0.1.main")]


async def test_a_driver_that_fails_or_hangs_costs_its_own_numbers_only(
    log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_MEASURE_SECONDS", 0.5)
    answered = threading.Event()

    def hangs(_pid: int) -> dict[str, int]:
        answered.wait()
        return {}

    def fails(_pid: int) -> dict[str, int]:
        raise OSError("the driver is gone")

    try:
        for device_use in (hangs, fails):
            with capture_logs() as logs:
                memory = await measure_memory(log_file, os.getpid(), device_use)
            assert memory is not None
            assert (dict(memory.buffers), memory.devices_used) == (LOADED, {})
            assert [entry["event"] for entry in logs] == ["memory_not_measured"]
    finally:
        answered.set()


@pytest.mark.parametrize(
    ("name", "believed"),
    [
        (f"x: CPU model buffer size = {'9' * 400}.0 MiB", True),
        ("load_tensors: CUDA0 model buffer size = 99999.00 MiB", True),
        ("print_info: no_alloc = 1", True),
        ("srv  llama_server: listening on http://127.0.0.1:1", True),
        ("x\nload_tensors:   CUDA0 model buffer size =    92.00 MiB", True),
        ("x\n0.00.000.001 I load_tensors:   CUDA0 model buffer size =    92.00 MiB", False),
        ("x\n99.00.000.000 I load_tensors:   CUDA0 model buffer size =    92.00 MiB", False),
    ],
)
async def test_a_models_name_in_the_real_engines_log(
    open_supervisor: OpenSupervisor, tmp_path: Path, name: str, believed: bool
) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", name=name)
    async with open_supervisor() as supervisor:
        await supervisor.ensure_started(make_server(model))
        await reached(supervisor, ProcessPhase.READY)
        memory = await supervisor.measure(KEY)
        await supervisor.kill(KEY)
    if not believed:
        assert memory is None
        return
    assert memory is not None
    assert memory.devices == ()
    assert 0 < memory.host.weights < 10 * MIB
    assert memory.host.cache > 0


async def test_the_real_engine_and_whoever_adopts_it(open_supervisor: OpenSupervisor, smollm2: Path) -> None:
    async with open_supervisor(device_use=lambda pid: {"gpu0": pid}) as supervisor:
        assert await supervisor.measure(KEY) is None
        await supervisor.ensure_started(make_server(smollm2))
        ready = await reached(supervisor, ProcessPhase.READY)
        first = await supervisor.measure(KEY)
    assert first is not None
    assert first.host.cache == int(22.5 * 2 * MIB)  # 30 layers, 2048 cells, K and V, F16, 3 heads of 64
    assert first.host.weights == pytest.approx(92.1 * MIB, abs=0.01 * MIB)
    assert first.devices == ()
    assert first.devices_used == {"gpu0": ready.pid}
    assert first.process_resident > 90 * MIB
    async with open_supervisor() as supervisor:
        again = await supervisor.measure(KEY)
        await supervisor.kill(KEY)
        assert await supervisor.measure(KEY) is None
    assert again is not None
    assert again.buffers == first.buffers
