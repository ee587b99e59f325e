"""`stoker engine install | list | remove`."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.entrypoints.cli.conftest import Stoker
from tests.worker_agent.fake_build import fake_server, program
from tests.worker_agent.test_engine_store import put_engine
from worker_agent.engine_install import InstallRequest, Progress
from worker_agent.engine_options import Backend, BuildHost, EngineInstallError
from worker_agent.engine_store import EngineStore, InstalledEngine

HERE = f"{platform.system()}-{platform.machine()}".lower()
HOST = BuildHost(cxx="/usr/bin/c++", nvcc="/cuda/bin/nvcc")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    """The user's store: an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return EngineStore()


def put(store: EngineStore, name: str, **fields: object) -> InstalledEngine:
    return put_engine(store, name, **({"platform": HERE} | fields))


@pytest.fixture
def installs(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> list[InstallRequest]:
    """What was asked to be installed; nothing is built for it."""
    asked: list[InstallRequest] = []

    def install(request: InstallRequest, host: BuildHost, progress: Progress) -> InstalledEngine:
        asked.append(request)
        progress.stage("building")
        progress.steps(1, 2)
        return put(store, "0.3.36-cpu-1", backend=request.backend)

    monkeypatch.setattr("worker_agent.engine_install.install_engine", install)
    monkeypatch.setattr("worker_agent.engine_host.look_at_host", lambda: HOST)
    return asked


def test_install_says_what_it_found_and_what_it_made(stoker: Stoker, installs: list[InstallRequest]) -> None:
    done = stoker("engine", "install")
    assert (done.exit_code, installs) == (0, [InstallRequest(backend=Backend.CPU)])
    assert done.stderr.splitlines() == ["backend cpu: /cuda/bin/nvcc is there, but no GPU for it", "building"]
    first, second = done.stdout.splitlines()
    assert first == "0.3.36-cpu-1: llama.cpp 0.5.0-dev (build 0, commit 0c1e57098), RPC protocol 7.0.1"
    assert second.endswith("/cache/stoker/engines/0.3.36-cpu-1, built in 5m")


def test_install_for_scripts_prints_one_json(stoker: Stoker, installs: list[InstallRequest], tmp_path: Path) -> None:
    sdist = tmp_path / "sdist.tar.gz"
    done = stoker(
        "engine", "install", "--backend", "cuda", "--jobs", "3", "--force", "--source", str(sdist), "-o", "json"
    )
    assert installs == [InstallRequest(backend=Backend.CUDA, jobs=3, force=True, source=sdist)]
    answer = json.loads(done.stdout)
    assert (answer["name"], answer["kind"], answer["backend"]) == ("0.3.36-cpu-1", "native", "cuda")
    assert answer["rpc_protocol"] == "7.0.1"


def test_what_is_in_the_way_is_an_error(stoker: Stoker, installs: list[InstallRequest], monkeypatch: Any) -> None:
    done = stoker("engine", "install", "--backend", "rocm")
    assert (done.exit_code, installs) == (1, [])
    assert done.stderr.startswith("error: --backend rocm: hipcc was not found: install ROCm")

    def fails(*_: object) -> None:
        raise EngineInstallError("the build broke\nThe whole log: /x")

    monkeypatch.setattr("worker_agent.engine_install.install_engine", fails)
    done = stoker("engine", "install")
    assert done.exit_code == 1
    assert done.stderr.endswith("error: the build broke\nThe whole log: /x\n")


@pytest.mark.parametrize("arguments", [("--backend", "tpu"), ("--jobs", "0"), ("--nonsense",)])
def test_wrong_options_are_usage_errors(
    stoker: Stoker, installs: list[InstallRequest], arguments: tuple[str, ...]
) -> None:
    assert stoker("engine", "install", *arguments).exit_code == 2
    assert installs == []


@pytest.mark.parametrize("arguments", [(), ("list",), ("ls",)])
def test_the_list_marks_the_one_in_use(stoker: Stoker, store: EngineStore, arguments: tuple[str, ...]) -> None:
    put(store, "0.3.35-cpu-1", release="0.3.35")
    put(store, "0.3.36-cuda-2", backend=Backend.CUDA, devices="CUDA0")
    done = stoker("engine", *arguments)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["NAME", "BACKEND", "VERSION", "RPC", "SIZE", "PATH"]
    assert rows[1][:3] == ["0.3.35-cpu-1", "cpu", "0.5.0-dev"]
    assert rows[2][:3] == ["*", "0.3.36-cuda-2", "cuda"]
    assert rows[2][-1] == str(store.folder / "0.3.36-cuda-2")
    assert rows[3][:2] == ["bundled", "cpu"]
    assert done.stderr == "A worker that starts here uses 0.3.36-cuda-2: it can use CUDA0.\n"


def test_without_any_the_bundled_one_is_in_use(stoker: Stoker, store: EngineStore) -> None:
    (only,) = json.loads(stoker("engine", "list", "-o", "json").stdout)
    assert (only["name"], only["used"], only["reason"]) == ("bundled", True, "no other engine is installed")


def cut(engine: InstalledEngine) -> None:
    engine.program("llama-server").write_text("cut")


def crash(engine: InstalledEngine) -> None:
    size = engine.program("llama-server").stat().st_size
    text = "#!/bin/sh\nkill -ILL $$\n"
    program(engine.program("llama-server"), text + "#" * (size - len(text)))


@pytest.mark.parametrize(("spoil", "problem"), [(cut, "has 3 bytes instead of"), (crash, "SIGILL")])
def test_an_unusable_engine_is_listed_with_its_problem(
    stoker: Stoker, store: EngineStore, spoil: Callable[[InstalledEngine], None], problem: str
) -> None:
    spoil(put(store, "0.3.36-cpu-1"))
    found = {engine["name"]: engine for engine in json.loads(stoker("engine", "-o", "json").stdout)}
    assert problem in found["0.3.36-cpu-1"]["problem"]
    assert (found["0.3.36-cpu-1"]["used"], found["bundled"]["used"]) == (False, True)
    shown = stoker("engine", "list")
    assert "unusable" in shown.stdout
    assert f"0.3.36-cpu-1 cannot be used: {found['0.3.36-cpu-1']['problem']}" in shown.stderr


def test_an_own_program_is_listed_first(
    stoker: Stoker, store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fake_server(tmp_path / "own" / "llama-server", version="11434 (abc1234)")
    monkeypatch.setenv("STOKER_WORKER__LLAMA_SERVER", str(own))
    first, second = json.loads(stoker("engine", "list", "-o", "json").stdout)
    assert (first["name"], first["used"], first["version"]) == ("own", True, "11434 (abc1234)")
    assert (first["path"], first["rpc_protocol"]) == (str(own.parent), None)
    assert (second["name"], second["used"]) == ("bundled", False)
    program(own.with_name("ggml-rpc-server"), "#!/bin/sh\necho no devices >&2; exit 1\n")
    done = stoker("engine", "list", "-o", "json")
    assert json.loads(done.stdout)[0]["rpc_protocol"] is None
    assert "own serves no RPC: " in stoker("engine", "list").stderr
    monkeypatch.setenv("STOKER_WORKER__LLAMA_SERVER", "/nowhere/llama-server")
    done = stoker("engine", "list")
    assert done.exit_code == 2
    assert "error: engine /nowhere/llama-server: must be the absolute path" in done.stderr


def test_remove(stoker: Stoker, store: EngineStore) -> None:
    put(store, "0.3.36-cpu-1")
    done = stoker("engine", "remove", "0.3.36-cpu-1")
    assert done.stdout == "0.3.36-cpu-1: removed\n"
    assert "takes no new servers: restart it" in done.stderr
    done = stoker("engine", "remove", "0.3.36-cpu-1")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: no engine '0.3.36-cpu-1' is installed in ")
