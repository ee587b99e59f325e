"""Installs a native engine: fetches the source, builds it, tries what came out, and puts it in place as a whole."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from stoker.domain.base import Value
from worker_agent.engine_build import build
from worker_agent.engine_options import (
    TARGETS,
    Backend,
    BuildHost,
    BuildOptions,
    EngineInstallError,
    build_options,
    disk_lack,
    install_name,
    jobs_for,
)
from worker_agent.engine_patches import PATCHES, apply_patches
from worker_agent.engine_programs import EngineError, ask, ask_version, engine_environment
from worker_agent.engine_source import SOURCE, BuildTools, fetch_source, fetch_tools, read_rpc_protocol, unpack_source
from worker_agent.engine_store import MANIFEST, EngineStore, InstalledEngine, Manifest, Program
from worker_agent.rpc_probe import RpcProbeError, ask_rpc_protocol

WAIT_SECONDS = 4 * 3600.0
"""How long another build on this machine is waited for."""


class Progress(Protocol):
    """Is told what happens."""

    def stage(self, text: str) -> None:
        """What is being done from here on, for people."""
        ...

    def steps(self, done: int, total: int) -> None:
        """How many steps of the compilation are done."""
        ...


class InstallRequest(Value):
    """What to install. `jobs`: compilations at once; None: as many as cores and memory allow."""

    backend: Backend
    jobs: int | None = None
    force: bool = False  # build even what is installed
    source: Path | None = None  # the sdist, where it is already there


def install_engine(
    request: InstallRequest,
    host: BuildHost,
    progress: Progress,
    *,
    store: EngineStore | None = None,
    get_source: Callable[[Path, Path | None], Path] = fetch_source,
    get_tools: Callable[[Path], BuildTools] = fetch_tools,
    wait_seconds: float = WAIT_SECONDS,
) -> InstalledEngine:
    """Builds and installs, or finds it installed. Blocks for minutes to hours.

    Nothing counts as installed before it is whole and has run. Two at once: the second waits, and finds what the first
    has made. Raises EngineInstallError.
    """
    store = store or EngineStore()
    options = build_options(request.backend, host, version=SOURCE.version, commit=SOURCE.commit)
    name = install_name(SOURCE.release, options, [patch.model_dump_json() for patch in PATCHES])
    if not request.force and (found := store.find(name)):
        return found
    asked_at = datetime.now(UTC)

    def tell_wait(holder: str) -> None:
        progress.stage(f"waiting for process {holder}, which builds an engine")

    try:
        with store.building(wait_seconds, tell_wait) as scratch:
            found = store.find(name)
            if found and not (request.force and found.manifest.built_at < asked_at):
                return found
            if lack := disk_lack(options.backend, shutil.disk_usage(scratch).free):
                raise EngineInstallError(f"{store.folder}: {lack}. Make room, or choose another disk: XDG_CACHE_HOME")
            progress.stage(f"fetching {SOURCE.package} {SOURCE.release} and cmake")
            archive = get_source(scratch, request.source)
            source = unpack_source(archive, scratch / "llama.cpp")
            apply_patches(source)
            tools = get_tools(scratch / "tools")
            jobs = request.jobs or jobs_for(options.backend, host)
            progress.stage(f"building llama.cpp {SOURCE.version} for {options.backend}, {jobs} at once")
            began = time.monotonic()
            log_path = store.log_path(name)
            flags = options.flags
            programs = build(
                tools, source, scratch / "build", flags=flags, jobs=jobs, log_path=log_path, report=progress.steps
            )
            seconds = time.monotonic() - began
            progress.stage("trying what was built")
            built = _gather(programs, source, scratch / "engine")
            manifest = _tried(built, source, options, host, name, seconds)
            (built / MANIFEST).write_text(manifest.model_dump_json(indent=2))
            return store.put(built, name)
    except OSError as error:
        raise EngineInstallError(f"{error.filename or store.folder}: {error.strerror}") from error


def _gather(programs: Path, source: Path, target: Path) -> Path:
    """Puts what an engine consists of into `target`: the programs, and llama.cpp's licence, which goes with copies."""
    (target / "bin").mkdir(parents=True)
    for name in TARGETS:
        try:
            shutil.move(programs / name, target / "bin" / name)
        except FileNotFoundError as error:
            raise EngineInstallError(f"the build left no {name}") from error
    if (source / "LICENSE").is_file():
        shutil.copyfile(source / "LICENSE", target / "LICENSE")
    return target


def _tried(built: Path, source: Path, options: BuildOptions, host: BuildHost, name: str, seconds: float) -> Manifest:
    """The manifest, after the programs have run. Raises EngineInstallError when they do not, or not as they should."""
    binaries = built / "bin"
    with tempfile.TemporaryDirectory(dir=built.parent, prefix="stubs-") as stubs:
        environment = _environment_for_trial(host, options.backend, Path(stubs))
        try:
            version = ask_version(binaries / "llama-server", environment)
            ask(binaries / "ggml-rpc-server", "--help", environment)
            protocol = ask_rpc_protocol(binaries / "ggml-rpc-server", environment)
        except (EngineError, RpcProbeError) as error:
            raise EngineInstallError(f"the engine was built, but does not run here: {error}") from error
    if SOURCE.commit not in version:
        raise EngineInstallError(f"the built llama-server says it is {version!r}, not of commit {SOURCE.commit}")
    if protocol != (expected := read_rpc_protocol(source)):
        raise EngineInstallError(f"the built ggml-rpc-server speaks protocol {protocol}, its source {expected}")
    return Manifest(
        name=name,
        version=version,
        release=SOURCE.release,
        source_sha256=SOURCE.sha256,
        backend=options.backend,
        platform=options.platform,
        options=options.flags,
        rpc_protocol=protocol,
        built_at=datetime.now(UTC),
        build_seconds=round(seconds, 1),
        programs={path.name: _described(path) for path in sorted(binaries.iterdir())},
    )


def _described(path: Path) -> Program:
    with path.open("rb") as file:
        return Program(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _environment_for_trial(host: BuildHost, backend: Backend, stubs: Path) -> dict[str, str]:
    """Where CUDA's driver is missing (an image is being built, say), the toolkit's stand-in for it lets programs start.

    They then see no GPU. Only for a machine without one: the stand-in would come before the real driver.
    """
    environment = engine_environment(os.environ)
    toolkits = (Path(host.nvcc).parent.parent, Path("/usr/local/cuda"))
    found = [path for toolkit in toolkits if (path := toolkit / "lib64" / "stubs" / "libcuda.so").is_file()]
    if backend is Backend.CUDA and not host.nvidia_gpus and found:
        (stubs / "libcuda.so.1").symlink_to(found[0])
        paths = [environment.get("LD_LIBRARY_PATH", ""), str(stubs)]
        environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
    return environment
