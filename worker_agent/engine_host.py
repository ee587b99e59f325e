"""Looks at this machine: which compilers and GPUs an engine could be built with and for."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker_agent.engine_options import BuildHost
from worker_agent.memory import read_host_memory

_ASK_SECONDS = 30  # a driver that starts may take some
_CAPABILITY = re.compile(r"^\s*(\d+\.\d+)\s*$", re.MULTILINE)
_CUDA_RELEASE = re.compile(r"release (\d+)\.(\d+)")
_AMD_ARCHITECTURE = re.compile(r"^\s*(gfx(?!000)[0-9a-f]+)\s*$", re.MULTILINE)
_HEADERS = ("vulkan/vulkan.h", "spirv/unified1/spirv.hpp")


def look_at_host(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> BuildHost:
    """What there is. Programs are looked for on `environment`'s PATH and in their vendors' usual places below `root`.

    Blocks for as long as the vendors' tools take to answer, at most 30 s each.
    """
    nvcc = _program(environment, "nvcc", "CUDACXX", [root / "usr/local/cuda/bin", *_below(environment, "CUDA_PATH")])
    hipcc = _program(environment, "hipcc", "", [*_below(environment, "ROCM_PATH"), root / "opt/rocm/bin"])
    release = _CUDA_RELEASE.search(_ask([nvcc, "--version"], environment)) if nvcc else None
    smi = _program(environment, "nvidia-smi", "", [])
    enumerator = _program(environment, "rocm_agent_enumerator", "", [root / "opt/rocm/bin"])
    includes = [root / "usr/include", root / "usr/local/include", root / "opt/homebrew/include"]
    includes += [Path(environment["VULKAN_SDK"], "include")] if environment.get("VULKAN_SDK") else []
    return BuildHost(
        system=platform.system(),
        machine=platform.machine(),
        cores=_cores(),
        memory=_free_memory(),
        cxx=_program(environment, "c++", "CXX", []) or _first_program(environment, ("g++", "clang++")),
        nvcc=nvcc,
        cuda_version=(int(release[1]), int(release[2])) if release else None,
        nvidia_gpus=tuple(_CAPABILITY.findall(_ask([smi, *_NVIDIA_QUERY], environment))) if smi else (),
        hipcc=hipcc,
        amd_gpus=tuple(_AMD_ARCHITECTURE.findall(_ask([enumerator], environment))) if enumerator else (),
        glslc=_program(environment, "glslc", "", _below(environment, "VULKAN_SDK")),
        vulkan_headers=all(any((folder / header).is_file() for folder in includes) for header in _HEADERS),
        render_node=any((root / "dev/dri").glob("renderD*")),
    )


_NVIDIA_QUERY = ("--query-gpu=compute_cap", "--format=csv,noheader")


def _program(environment: Mapping[str, str], name: str, variable: str, folders: Sequence[Path]) -> str:
    """The path of a program: as the environment's `variable` names it, else from the PATH, else from `folders`."""
    path = environment.get("PATH", "")
    # CXX may be a command with options, like `ccache g++`: cmake takes it apart; here, it is enough that it is one.
    if variable and (named := environment.get(variable, "").split()) and (found := shutil.which(named[0], path=path)):
        return found
    if found := shutil.which(name, path=path):
        return found
    return next((str(folder / name) for folder in folders if os.access(folder / name, os.X_OK)), "")


def _first_program(environment: Mapping[str, str], names: Sequence[str]) -> str:
    return next((found for name in names if (found := _program(environment, name, "", []))), "")


def _below(environment: Mapping[str, str], variable: str) -> list[Path]:
    return [Path(environment[variable], "bin")] if environment.get(variable) else []


def _ask(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a program prints; empty when it fails: then what it would have told is not there."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def _free_memory() -> int:
    memory = read_host_memory()
    return memory.total - memory.used
