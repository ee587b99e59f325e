"""Engines: the bundled one, and programs that say they are llama-server."""

import importlib.metadata
import os
import subprocess
from pathlib import Path

import pytest

from stoker.domain.workers import Engine, EngineKind
from tests.worker_agent.fake_build import SERVER, fake_rpc_server, fake_server, program
from worker_agent.engine_programs import EngineError, engine_environment
from worker_agent.engines import BundledEngine, NativeEngine, is_there

ANSWERS = SERVER.format(version="11434 (abc1234)", devices="  (none)")


def test_the_bundled_engine_is_there_and_starts() -> None:
    engine = BundledEngine()
    assert engine.describe() == Engine(kind=EngineKind.BUNDLED, version=importlib.metadata.version("xllamacpp"))
    assert engine.device_names == frozenset()
    done = subprocess.run(engine.main_command(["--nope"]), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: invalid argument: --nope\n")


def test_the_launcher_does_not_import_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "signal.py").write_text("raise SystemExit('hijacked')")
    done = subprocess.run(
        BundledEngine().main_command(["--nope"]), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "error: invalid argument: --nope\n"


def test_a_native_engine_is_asked_what_it_is(tmp_path: Path) -> None:
    path = fake_server(tmp_path / "llama-server", version="11434 (abc1234)", devices="CUDA0,CUDA1")
    engine = NativeEngine(path)
    assert engine.describe() == Engine(kind=EngineKind.NATIVE, version="11434 (abc1234)")
    assert engine.device_names == {"CUDA0", "CUDA1"}
    assert engine.main_command(["-m", "x"]) == [str(path), "-m", "x"]
    assert engine.rpc_server is None
    assert engine.rpc_command([]) is None
    assert BundledEngine().rpc_command([]) is None


def test_an_engine_that_was_removed_is_not_there(tmp_path: Path) -> None:
    engine = NativeEngine(fake_server(tmp_path / "llama-server"))
    assert (is_there(engine), is_there(BundledEngine())) == (True, True)
    engine.path.unlink()
    assert not is_there(engine)


def test_a_native_engine_without_accelerators(tmp_path: Path) -> None:
    assert NativeEngine(fake_server(tmp_path / "llama-server")).device_names == frozenset()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_its_rpc_server_is_asked_for_the_protocol(tmp_path: Path, elsewhere: bool) -> None:
    path = fake_server(tmp_path / "llama-server")
    rpc_server = fake_rpc_server(tmp_path / "bin" / "rpc" if elsewhere else tmp_path / "ggml-rpc-server", "7.2.1")
    engine = NativeEngine(path, rpc_server=rpc_server if elsewhere else None)
    assert engine.describe().rpc_protocol == "7.2.1"
    assert engine.rpc_server == rpc_server
    assert engine.rpc_command(["-p", "5"]) == [str(rpc_server), "-p", "5"]
    rpc_server.unlink()
    assert engine.rpc_command([]) is None, "removed meanwhile"


def test_a_protocol_that_is_known_is_not_asked_for(tmp_path: Path) -> None:
    path = fake_server(tmp_path / "llama-server")
    program(tmp_path / "ggml-rpc-server", "#!/bin/sh\nexit 1\n")
    assert NativeEngine(path, rpc_protocol="7.0.0").describe().rpc_protocol == "7.0.0"


def test_an_rpc_server_that_does_not_answer_costs_the_protocol_only_unless_it_was_named(tmp_path: Path) -> None:
    path = fake_server(tmp_path / "llama-server")
    broken = program(tmp_path / "ggml-rpc-server", "#!/bin/sh\necho no devices >&2; exit 1\n")
    engine = NativeEngine(path)
    assert engine.describe().rpc_protocol is None
    assert engine.rpc_server is None
    assert engine.rpc_problem.endswith("ended with 1 instead of serving: no devices")
    with pytest.raises(EngineError, match="ended with 1 instead of serving: no devices"):
        NativeEngine(path, rpc_server=broken)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (ANSWERS, 0o644, "must be the absolute path of an executable llama-server"),
        ("#!/bin/sh\necho hello\n", 0o755, "`--version` did not answer with llama-server's `version: …` line"),
        ("#!/bin/sh\necho broken; exit 3\n", 0o755, r"`--version` failed \(3\): broken"),
        ("#!/bin/sh\nkill -ILL $$\n", 0o755, r"failed \(SIGILL: it uses instructions that this processor lacks\)"),
        ("#!/bin/sh\nkill -SEGV $$\n", 0o755, r"failed \(SIGSEGV\)"),
        ("not a program", 0o755, "cannot be run: Exec format error"),
    ],
)
def test_what_is_no_engine_is_refused(tmp_path: Path, text: str, mode: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        NativeEngine(program(tmp_path / "llama-server", text, mode))


@pytest.mark.parametrize("path", ["llama-server", "/no/such/llama-server", "/"])
def test_a_path_to_no_program_is_refused(path: str) -> None:
    with pytest.raises(EngineError, match="must be the absolute path"):
        NativeEngine(Path(path))


def test_an_engine_gets_little_of_the_agents_environment() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "1", "LD_LIBRARY_PATH": "/opt", "LC_ALL": "C"}
    secrets = {"STOKER_ENGINE_SECRET": "x", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "LLAMA_ARG_HOST": "::"}
    assert engine_environment(kept | secrets) == kept | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_NO_BACKTRACE": "1"}
    assert "PATH" in engine_environment(os.environ)
