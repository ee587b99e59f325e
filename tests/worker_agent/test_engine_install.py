"""Installing an engine: whole or not at all. The build is a stand-in; test_native_engine has the real one."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stoker.domain.units import MIB
from tests.worker_agent.fake_build import (
    FILES,
    LLAMA,
    NINJA,
    fake_rpc_server,
    fake_sdist,
    fake_server,
    fake_tools,
    has_ended,
    program,
)
from worker_agent.engine_install import InstallRequest, install_engine
from worker_agent.engine_options import TARGETS, Backend, BuildHost, EngineInstallError
from worker_agent.engine_source import SOURCE, BuildTools
from worker_agent.engine_store import MANIFEST, EngineStore, InstalledEngine

HOST = BuildHost(system="Linux", machine="x86_64", cores=2, memory=8 << 30, cxx="/usr/bin/c++")
CPU = InstallRequest(backend=Backend.CPU)


class Told:
    """Keeps what progress was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.last = (0, 0)

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def steps(self, done: int, total: int) -> None:
        self.last = (done, total)


class Workshop:
    """A store, and what it takes to build into it. `tools` and `files` may be changed before `install`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = EngineStore(folder / "engines")
        self.tools = fake_tools(folder)
        self.files = FILES
        self.builds = 0
        self.told = Told()

    def install(
        self, request: InstallRequest = CPU, host: BuildHost = HOST, wait_seconds: float = 60
    ) -> InstalledEngine:
        return install_engine(
            request,
            host,
            self.told,
            store=self.store,
            get_source=self._source,
            get_tools=self._tools,
            wait_seconds=wait_seconds,
        )

    def _source(self, folder: Path, given: Path | None) -> Path:
        assert given is None
        return fake_sdist(folder, self.files)

    def _tools(self, _: Path) -> BuildTools:
        self.builds += 1
        return self.tools

    def left(self) -> list[str]:
        """What lies in the store beside installed engines, logs and the lock."""
        names = {engine.manifest.name for engine in self.store.installed()} | {"logs", ".lock"}
        return sorted(path.name for path in self.store.folder.iterdir() if path.name not in names)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A workshop whose build works."""
    return Workshop(tmp_path)


def test_an_installed_engine_says_what_it_is(workshop: Workshop) -> None:
    engine = workshop.install()
    manifest = engine.manifest
    assert manifest.name.startswith(f"{SOURCE.release}-cpu-")
    assert engine.folder == workshop.store.folder / manifest.name
    assert manifest.version == f"{SOURCE.version} (build 0, commit {SOURCE.commit})"
    assert (manifest.rpc_protocol, manifest.backend, manifest.release) == ("7.0.1", Backend.CPU, SOURCE.release)
    assert (manifest.platform, manifest.source_sha256) == ("linux-x86_64", SOURCE.sha256)
    assert "-DGGML_RPC=ON" in manifest.options
    assert set(manifest.programs) == set(TARGETS)
    assert engine.size == sum(engine.program(name).stat().st_size for name in TARGETS)
    assert (engine.folder / "LICENSE").read_text() == "MIT License\n"
    assert workshop.store.installed() == [engine]
    assert workshop.store.damaged() == {}
    assert workshop.left() == []
    assert workshop.told.last == (3, 3)
    assert workshop.told.stages == [
        f"fetching llama-cpp-python {SOURCE.release} and cmake",
        f"building llama.cpp {SOURCE.version} for cpu, 2 at once",
        "trying what was built",
    ]
    assert (workshop.store.log_path(manifest.name)).read_text().endswith("Linking CXX executable bin/llama-server\n")


def test_what_is_installed_is_not_built_again_unless_forced(workshop: Workshop) -> None:
    first = workshop.install()
    assert workshop.install() == first
    assert workshop.builds == 1
    forced = workshop.install(InstallRequest(backend=Backend.CPU, force=True))
    assert workshop.builds == 2
    assert forced.folder == first.folder
    assert forced.manifest.built_at > first.manifest.built_at
    assert workshop.left() == []


def test_other_options_are_another_engine(workshop: Workshop) -> None:
    workshop.install()
    workshop.install(InstallRequest(backend=Backend.VULKAN))
    assert [engine.manifest.backend for engine in workshop.store.installed()] == [Backend.CPU, Backend.VULKAN]


def test_a_damaged_engine_is_built_again(workshop: Workshop) -> None:
    engine = workshop.install()
    engine.program("llama-server").write_text("cut")
    assert workshop.store.installed() == []
    assert "has 3 bytes instead of" in workshop.store.damaged()[engine.manifest.name]
    assert workshop.install().manifest.name == engine.manifest.name
    assert workshop.store.damaged() == {}


def broken_build(workshop: Workshop) -> None:
    workshop.tools = fake_tools(workshop.folder, ninja="#!/bin/sh\necho 'a.cpp:1:1: error: no'\nexit 1\n")


def missing_program(workshop: Workshop) -> None:
    (workshop.folder / "ready" / "llama-quantize").unlink()


def illegal_instruction(workshop: Workshop) -> None:
    program(workshop.folder / "ready" / "llama-server", "#!/bin/sh\nkill -ILL $$\n")


def illegal_instruction_in_the_rpc_server(workshop: Workshop) -> None:
    program(workshop.folder / "ready" / "ggml-rpc-server", "#!/bin/sh\nkill -ILL $$\n")


def other_version(workshop: Workshop) -> None:
    fake_server(workshop.folder / "ready" / "llama-server", version="1 (build 0, commit unknown)")


def other_protocol(workshop: Workshop) -> None:
    fake_rpc_server(workshop.folder / "ready" / "ggml-rpc-server", "6.0.0")


def silent_rpc_server(workshop: Workshop) -> None:
    program(workshop.folder / "ready" / "ggml-rpc-server", "#!/bin/sh\nexit 0\n")


def no_source(workshop: Workshop) -> None:
    workshop.files = {f"{LLAMA}/README.md": "x"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_build, "the build broke .*: a.cpp:1:1: error: no"),
        (missing_program, "the build left no llama-quantize"),
        (illegal_instruction, "does not run here: .*SIGILL: it uses instructions that this processor lacks"),
        (illegal_instruction_in_the_rpc_server, "does not run here: .*SIGILL"),
        (other_version, "says it is '1 \\(build 0, commit unknown\\)', not of commit"),
        (other_protocol, "speaks protocol 6.0.0, its source 7.0.1"),
        (silent_rpc_server, "does not run here: .*ended with 0 instead of serving"),
        (no_source, "holds no vendor/llama.cpp/CMakeLists.txt"),
    ],
)
def test_what_fails_leaves_nothing_and_the_installed_engine_as_it_was(
    workshop: Workshop, spoil: Callable[[Workshop], None], message: str
) -> None:
    before = workshop.install()
    spoil(workshop)
    with pytest.raises(EngineInstallError, match=message):
        workshop.install(InstallRequest(backend=Backend.CPU, force=True))
    assert workshop.store.installed() == [before]
    assert workshop.left() == []


def test_too_little_disk_is_said_before_anything_is_fetched(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100 * MIB})
    monkeypatch.setattr("worker_agent.engine_install.shutil.disk_usage", lambda _: usage)
    with pytest.raises(EngineInstallError, match=r"a cpu build needs about 1 GiB, and 100 MiB are free\. Make room"):
        workshop.install()
    assert workshop.builds == 0
    assert workshop.left() == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, workshop: Workshop) -> None:
    (tmp_path / "file").touch()
    workshop.store = EngineStore(tmp_path / "file" / "engines")
    with pytest.raises(EngineInstallError, match="file/engines: Not a directory"):
        workshop.install()


def test_what_a_killed_build_left_is_no_engine_and_is_cleaned(workshop: Workshop) -> None:
    engine = workshop.install()
    for name in (".building-4711", ".removed-0.3.35-cpu-4711"):
        (workshop.store.folder / name / "engine" / "bin").mkdir(parents=True)
        manifest = (engine.folder / MANIFEST).read_text()
        (workshop.store.folder / name / MANIFEST).write_text(manifest)
    assert workshop.store.installed() == [engine]
    assert workshop.store.damaged() == {}
    workshop.install(InstallRequest(backend=Backend.VULKAN))
    assert workshop.left() == []


def test_two_at_once_build_once(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "go").mkdir()
    gate = f"while [ ! -e {tmp_path}/go/on ]; do sleep 0.02; done\n"
    workshop.tools = fake_tools(tmp_path, ninja=NINJA.replace("#!/bin/sh\n", f"#!/bin/sh\n{gate}"))
    second = Workshop(tmp_path)
    waits = threading.Event()
    results: list[InstalledEngine] = []

    class SaysThatItWaits(Told):
        def stage(self, text: str) -> None:
            super().stage(text)
            if text.startswith("waiting for process "):
                waits.set()

    second.told = SaysThatItWaits()
    builds = threading.Event()
    workshop.told.stage = lambda text: builds.set() if text.startswith("building") else None  # type: ignore[method-assign]
    threads = [threading.Thread(target=lambda: results.append(workshop.install()))]
    threads[0].start()
    assert builds.wait(60)
    threads.append(threading.Thread(target=lambda: results.append(second.install())))
    threads[1].start()
    assert waits.wait(60)
    (tmp_path / "go" / "on").touch()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2
    assert results[0] == results[1]
    assert (workshop.builds, second.builds) == (1, 0)


ENDLESS = """#!/bin/sh
echo $$ > {ready}/pid
while echo "[1/2] Building"; do sleep 0.05; done
"""

INSTALL = """
import sys
from pathlib import Path
from tests.worker_agent.fake_build import fake_tools
from tests.worker_agent.test_engine_install import ENDLESS, Workshop
workshop = Workshop(Path(sys.argv[1]))
workshop.tools = fake_tools(workshop.folder, ninja=ENDLESS)
workshop.install()
"""


def test_a_killed_build_ends_its_compilers_and_leaves_nothing_that_counts(workshop: Workshop) -> None:
    command = [sys.executable, "-c", INSTALL, str(workshop.folder)]
    build = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    pid = workshop.folder / "ready" / "pid"
    deadline = time.monotonic() + 60
    while not pid.exists() or not pid.read_text().strip():
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ninja = int(pid.read_text())
    build.kill()
    assert build.wait(30) == -signal.SIGKILL
    while not has_ended(ninja):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert workshop.store.installed() == []
    assert workshop.store.damaged() == {}
    assert workshop.left() == [f".building-{build.pid}"]
    workshop.tools = fake_tools(workshop.folder)
    assert workshop.install().manifest.backend is Backend.CPU
    assert workshop.left() == []


def test_another_build_is_not_waited_for_for_ever(workshop: Workshop) -> None:
    with (
        workshop.store.building(0, lambda _: None),
        pytest.raises(EngineInstallError, match=r"process \d+ builds an engine in .*, and was not ready within 0 s"),
    ):
        workshop.install(wait_seconds=0)
    assert workshop.install()


def test_a_cuda_build_without_a_driver_is_tried_with_the_toolkits_stand_in(workshop: Workshop, tmp_path: Path) -> None:
    nvcc = program(tmp_path / "cuda" / "bin" / "nvcc", "#!/bin/sh\n")
    program(tmp_path / "cuda" / "lib64" / "stubs" / "libcuda.so", "a library")
    server = workshop.folder / "ready" / "llama-server"
    program(server, '#!/bin/sh\nfor d in $(echo $LD_LIBRARY_PATH | tr : " "); do test -f $d/libcuda.so.1 && '
                    f'echo "version: 1 (commit {SOURCE.commit})" && exit 0; done; exit 127\n')  # fmt: skip
    host = HOST.model_copy(update={"nvcc": str(nvcc)})
    assert workshop.install(InstallRequest(backend=Backend.CUDA), host).manifest.backend is Backend.CUDA
    with pytest.raises(EngineInstallError, match=r"`--version` failed \(127\)"):
        workshop.install(InstallRequest(backend=Backend.CUDA), host.model_copy(update={"nvidia_gpus": ("9.0",)}))
    assert workshop.left() == []


def test_the_manifest_is_json_for_others(workshop: Workshop) -> None:
    engine = workshop.install()
    data = json.loads((engine.folder / MANIFEST).read_text())
    assert {"name", "version", "rpc_protocol", "backend", "options", "source_sha256", "built_at", "programs"} <= set(
        data
    )
    assert set(data["programs"]["llama-server"]) == {"size", "sha256"}
    assert datetime.fromisoformat(data["built_at"]) <= datetime.now(UTC)
