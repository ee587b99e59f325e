"""Engines: the bundled one, and programs that say they are llama-server."""

import importlib.metadata
import os
import subprocess
from pathlib import Path

import pytest

from stoker.domain.workers import Engine, EngineKind
from worker_agent.engines import BundledEngine, EngineError, NativeEngine, choose_engine, engine_environment

# As llama-server answers: the version on stderr, the devices on stdout.
ANSWERS = """#!/bin/sh
case "$1" in
--version) echo "version: 11434 (abc1234)" >&2; echo "built with cc for x86_64-linux-gnu" >&2;;
--list-devices)
  echo "Available devices:"
  echo "  CUDA0: NVIDIA H100 80GB HBM3 (81004 MiB, 80460 MiB free)"
  echo "  CUDA1: NVIDIA H100 80GB HBM3 (81004 MiB, 80460 MiB free)";;
*) exit 1;;
esac
"""


def program(folder: Path, text: str, mode: int = 0o755) -> Path:
    """Writes a program."""
    path = folder / "llama-server"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_bundled_engine_is_there_and_starts() -> None:
    engine = choose_engine(None)
    assert isinstance(engine, BundledEngine)
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
    path = program(tmp_path, ANSWERS)
    engine = choose_engine(path)
    assert engine.describe() == Engine(kind=EngineKind.NATIVE, version="11434 (abc1234)")
    assert engine.device_names == {"CUDA0", "CUDA1"}
    assert engine.main_command(["-m", "x"]) == [str(path), "-m", "x"]


def test_a_native_engine_without_accelerators(tmp_path: Path) -> None:
    text = ANSWERS.split('  echo "  CUDA0')[0] + '  echo "  (none)";;\nesac\n'
    assert NativeEngine(program(tmp_path, text)).device_names == frozenset()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (ANSWERS, 0o644, "must be the absolute path of an executable llama-server"),
        ("#!/bin/sh\necho hello\n", 0o755, "`--version` did not answer with llama-server's `version: …` line"),
        ("#!/bin/sh\necho broken; exit 3\n", 0o755, r"`--version` failed \(3\): broken"),
        ("not a program", 0o755, "cannot be run: Exec format error"),
    ],
)
def test_what_is_no_engine_is_refused(tmp_path: Path, text: str, mode: int, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        NativeEngine(program(tmp_path, text, mode))


@pytest.mark.parametrize("path", ["llama-server", "/no/such/llama-server", "/"])
def test_a_path_to_no_program_is_refused(path: str) -> None:
    with pytest.raises(EngineError, match="must be the absolute path"):
        NativeEngine(Path(path))


def test_an_engine_gets_little_of_the_agents_environment() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "1", "LD_LIBRARY_PATH": "/opt", "LC_ALL": "C"}
    secrets = {"STOKER_ENGINE_SECRET": "x", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "LLAMA_ARG_HOST": "::"}
    assert engine_environment(kept | secrets) == kept | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "GGML_NO_BACKTRACE": "1"}
    assert "PATH" in engine_environment(os.environ)
