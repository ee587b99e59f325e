"""What a native engine is built for and with: from what a machine has to cmake's options. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from stoker.domain.base import Bytes, Value
from stoker.domain.units import GIB, format_bytes

TARGETS = ("llama-server", "ggml-rpc-server", "llama-fit-params", "llama-gguf-split", "llama-quantize")
"""The programs of an engine."""


class EngineInstallError(Exception):
    """No engine was installed. The message says what is in the way and what to do about it."""


class Backend(StrEnum):
    """What an engine computes on, besides the CPU."""

    CPU = "cpu"
    CUDA = "cuda"
    METAL = "metal"
    VULKAN = "vulkan"
    ROCM = "rocm"


DISK_NEEDED: Mapping[Backend, Bytes] = MappingProxyType(
    {Backend.CPU: GIB, Backend.METAL: GIB, Backend.VULKAN: 2 * GIB, Backend.CUDA: 4 * GIB, Backend.ROCM: 4 * GIB}
)
"""Bytes free before a build starts: source, cmake, objects and programs. On the CPU 0.3 GiB were measured."""

MEMORY_PER_JOB: Mapping[Backend, Bytes] = MappingProxyType(
    {Backend.CPU: GIB, Backend.METAL: GIB, Backend.VULKAN: GIB, Backend.CUDA: 2 * GIB, Backend.ROCM: 2 * GIB}
)
"""What the largest compilations take at once, each. On the CPU 0.6 GiB were measured (g++ 12)."""

_OLDEST_NVIDIA = (6, 0)
_TOOLKIT_OF: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (
    ((12, 1), (12, 9)), ((12, 0), (12, 8)), ((10, 3), (12, 9)), ((10, 0), (12, 8)), ((8, 9), (11, 8)), ((0, 0), (0, 0)),
)  # fmt: skip
"""From which compute capability on which CUDA toolkit is the first that compiles for it."""


class BuildHost(Value):
    """What a machine has that matters for a build. Empty texts and tuples: not there."""

    system: str = "Linux"  # as platform.system() says it
    machine: str = "x86_64"
    cores: int = 1
    memory: Bytes = 0  # free now
    cxx: str = ""  # the C++ compiler's path
    nvcc: str = ""
    cuda_version: tuple[int, int] | None = None
    nvidia_gpus: tuple[str, ...] = ()  # a compute capability each, like "9.0"
    hipcc: str = ""
    amd_gpus: tuple[str, ...] = ()  # an architecture each, like "gfx1100"
    glslc: str = ""
    vulkan_headers: bool = False  # and SPIR-V's
    render_node: bool = False  # a GPU that Vulkan may find


class BackendChoice(Value):
    """What to build for, and why that."""

    backend: Backend
    reason: str


class BuildOptions(Value):
    """One way to build the engine. The flags in order; the same flags on the same platform give the same engine."""

    backend: Backend
    platform: str  # "linux-x86_64"
    flags: tuple[str, ...]


def choose_backend(asked: Backend | None, host: BuildHost) -> BackendChoice:
    """`asked`, or the best that `host` has both a device and a toolchain for. Raises EngineInstallError."""
    if asked is not None:
        if lack := _lack(asked, host):
            raise EngineInstallError(f"--backend {asked}: {lack}")
        return BackendChoice(backend=asked, reason="as asked")
    if lack := _lack(Backend.CPU, host):
        raise EngineInstallError(lack)
    if host.system == "Darwin":
        return BackendChoice(backend=Backend.METAL, reason="this is a Mac")
    found: list[str] = []
    gpus = {
        Backend.CUDA: _counted(host.nvidia_gpus, "NVIDIA GPU"),
        Backend.ROCM: _counted(host.amd_gpus, "AMD GPU"),
        Backend.VULKAN: "a GPU with a render node" if host.render_node else "",
    }
    tools = {Backend.CUDA: host.nvcc, Backend.ROCM: host.hipcc, Backend.VULKAN: host.glslc}
    for backend, gpu in gpus.items():
        lack = _lack(backend, host)
        if gpu and not lack:
            return BackendChoice(backend=backend, reason="; ".join([*found, f"{gpu}, and {tools[backend]} is there"]))
        if gpu:
            found.append(f"{gpu}, but {lack}")
        elif not lack:
            found.append(f"{tools[backend]} is there, but no GPU for it")
    return BackendChoice(backend=Backend.CPU, reason="; ".join(found) or "no GPU with its toolchain was found")


def build_options(backend: Backend, host: BuildHost, *, version: str, commit: str) -> BuildOptions:
    """The options of a build of llama.cpp `version` at `commit`. Raises EngineInstallError for GPUs it cannot serve."""
    on = {
        "GGML_RPC": True,
        "GGML_NATIVE": False,  # with it, some virtual machines end in SIGILL: they announce AMX and lack it
        "GGML_CUDA": backend is Backend.CUDA,
        "GGML_HIP": backend is Backend.ROCM,
        "GGML_METAL": backend is Backend.METAL,
        "GGML_VULKAN": backend is Backend.VULKAN,
        "GGML_RPC_RDMA": False,  # else by whether a library happens to be there
        "BUILD_SHARED_LIBS": False,
        "LLAMA_BUILD_TESTS": False,
        "LLAMA_BUILD_EXAMPLES": False,
        "LLAMA_BUILD_APP": False,
        "LLAMA_BUILD_UI": False,
        "LLAMA_USE_PREBUILT_UI": False,  # else it is downloaded while building
        "LLAMA_OPENSSL": False,
        "FETCHCONTENT_FULLY_DISCONNECTED": True,  # whatever else would be downloaded
    }
    flags = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{name}={'ON' if value else 'OFF'}" for name, value in on.items())]
    # The sdist names llama.cpp's commit and no build number: 0, which is what llama.cpp itself says when it has none.
    flags += ["-DLLAMA_BUILD_NUMBER=0", f"-DLLAMA_BUILD_COMMIT={commit}"]
    if backend is Backend.CUDA:
        flags.append(f"-DCMAKE_CUDA_COMPILER={host.nvcc}")
        if architectures := cuda_architectures(host):
            flags.append(f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(architectures)}")
    if backend is Backend.ROCM and host.amd_gpus:
        flags.append(f"-DGPU_TARGETS={';'.join(sorted(set(host.amd_gpus)))}")
    return BuildOptions(backend=backend, platform=f"{host.system}-{host.machine}".lower(), flags=tuple(flags))


def cuda_architectures(host: BuildHost) -> tuple[str, ...]:
    """What to compile for the GPUs that are there; empty without any: llama.cpp's own list, for all that are usual.

    Raises EngineInstallError when this toolkit compiles for none of them.
    """
    fit: list[tuple[int, int]] = []
    lacks: list[str] = []
    for capability in sorted({_capability(text) for text in host.nvidia_gpus}):
        if lack := _no_code_for(capability, host.cuda_version):
            lacks.append(lack)
        else:
            fit.append(capability)
    if lacks and not fit:
        raise EngineInstallError("; ".join(lacks))
    return tuple(f"{major}{minor}-real" for major, minor in fit)


def install_name(release: str, options: BuildOptions, changes: Sequence[str] = ()) -> str:
    """The installed engine's name: what a person would ask for, and a mark of everything else (`0.3.36-cpu-1f3a9c2e`).

    `release` is the source's; `changes`, all that we change in it.
    """
    parts = (release, options.platform, *options.flags, *changes)
    return f"{release}-{options.backend}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:8]}"


def jobs_for(backend: Backend, host: BuildHost) -> int:
    """How many compilations at once: one a core, as far as the free memory carries them; at least one."""
    return max(1, min(host.cores, host.memory // MEMORY_PER_JOB[backend]))


def disk_lack(backend: Backend, free: Bytes) -> str:
    """What is missing on a disk with so many bytes free; empty: nothing."""
    needed = DISK_NEEDED[backend]
    if free >= needed:
        return ""
    return f"a {backend} build needs about {format_bytes(needed)}, and {format_bytes(free)} are free"


def _lack(backend: Backend, host: BuildHost) -> str:
    """What is missing to build for `backend`, and what to do; empty: nothing."""
    if not host.cxx:
        if host.system == "Darwin":
            return "there is no C++ compiler: run `xcode-select --install`"
        return (
            "there is no C++ compiler (g++ or clang++ on the PATH, or CXX): run `apt install g++`,"
            " `dnf install gcc-c++` or what your system has for it"
        )
    if backend is Backend.METAL and host.system != "Darwin":
        return "Metal is Apple's; this machine runs " + host.system
    if backend is Backend.CUDA and not host.nvcc:
        return "nvcc was not found: install the CUDA toolkit, or name nvcc in CUDACXX"
    if backend is Backend.ROCM and not host.hipcc:
        return "hipcc was not found: install ROCm's HIP development packages, or name its folder in ROCM_PATH"
    if backend is Backend.VULKAN and not host.glslc:
        return "glslc was not found: run `apt install glslc libvulkan-dev spirv-headers`, or install Vulkan's SDK"
    if backend is Backend.VULKAN and not host.vulkan_headers:
        return "the headers of Vulkan and SPIR-V were not found: `apt install libvulkan-dev spirv-headers`"
    return ""


def _no_code_for(capability: tuple[int, int], toolkit: tuple[int, int] | None) -> str:
    name = "a GPU of compute capability {}.{}".format(*capability)
    if capability < _OLDEST_NVIDIA:
        return f"{name} is older than llama.cpp serves (6.0)"
    if toolkit is None:
        return ""
    if toolkit >= (13, 0) and capability < (7, 5):
        return f"{name} needs a CUDA toolkit before 13; nvcc is of {toolkit[0]}.{toolkit[1]}"
    needed = next(first for since, first in _TOOLKIT_OF if capability >= since)
    if toolkit < needed:
        return f"{name} needs CUDA toolkit {needed[0]}.{needed[1]} or newer; nvcc is of {toolkit[0]}.{toolkit[1]}"
    return ""


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _counted(things: Sequence[str], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}" if things else ""
