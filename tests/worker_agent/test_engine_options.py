"""What an engine is built for and with: tables over machines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.domain.units import GIB
from worker_agent.engine_options import (
    DISK_NEEDED,
    Backend,
    BuildHost,
    EngineInstallError,
    build_options,
    choose_backend,
    cuda_architectures,
    disk_lack,
    install_name,
    jobs_for,
)

PLAIN = BuildHost(cxx="/usr/bin/c++")
MAC = BuildHost(system="Darwin", machine="arm64", cxx="/usr/bin/c++")


def with_(**found: object) -> BuildHost:
    """A Linux machine with a compiler and this."""
    return PLAIN.model_copy(update=found)


CUDA = with_(nvcc="/cuda/bin/nvcc", cuda_version=(12, 8), nvidia_gpus=("9.0",))


@pytest.mark.parametrize(
    ("host", "backend", "reason"),
    [
        (PLAIN, Backend.CPU, "no GPU with its toolchain was found"),
        (MAC, Backend.METAL, "this is a Mac"),
        (CUDA, Backend.CUDA, "1 NVIDIA GPU, and /cuda/bin/nvcc is there"),
        (with_(nvidia_gpus=("8.6", "8.6")), Backend.CPU, "2 NVIDIA GPUs, but nvcc was not found: install the CUDA"),
        (with_(nvcc="/cuda/bin/nvcc"), Backend.CPU, "/cuda/bin/nvcc is there, but no GPU for it"),
        (with_(hipcc="/opt/hipcc", amd_gpus=("gfx1100",)), Backend.ROCM, "1 AMD GPU, and /opt/hipcc is there"),
        (
            with_(glslc="/bin/glslc", vulkan_headers=True, render_node=True),
            Backend.VULKAN,
            "a GPU with a render node, and /bin/glslc is there",
        ),
        (with_(glslc="/bin/glslc", render_node=True), Backend.CPU, "the headers of Vulkan and SPIR-V were not found"),
        (
            with_(nvidia_gpus=("9.0",), glslc="/bin/glslc", vulkan_headers=True, render_node=True),
            Backend.VULKAN,
            "1 NVIDIA GPU, but nvcc was not found",
        ),
        (CUDA.model_copy(update={"hipcc": "/opt/hipcc", "amd_gpus": ("gfx90a",)}), Backend.CUDA, "1 NVIDIA GPU"),
    ],
)
def test_auto_takes_the_gpu_whose_toolchain_is_there_and_says_why(
    host: BuildHost, backend: Backend, reason: str
) -> None:
    choice = choose_backend(None, host)
    assert choice.backend is backend
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("asked", "host", "message"),
    [
        (None, BuildHost(), "there is no C\\+\\+ compiler .* `apt install g\\+\\+`"),
        (None, BuildHost(system="Darwin"), "run `xcode-select --install`"),
        (Backend.CPU, BuildHost(), "--backend cpu: there is no C\\+\\+ compiler"),
        (Backend.CUDA, PLAIN, "--backend cuda: nvcc was not found: install the CUDA toolkit, or name nvcc in CUDACXX"),
        (Backend.ROCM, PLAIN, "--backend rocm: hipcc was not found"),
        (Backend.VULKAN, PLAIN, "--backend vulkan: glslc was not found"),
        (Backend.VULKAN, with_(glslc="/bin/glslc"), "headers of Vulkan"),
        (Backend.METAL, PLAIN, "--backend metal: Metal is Apple's; this machine runs Linux"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(asked: Backend | None, host: BuildHost, message: str) -> None:
    with pytest.raises(EngineInstallError, match=message):
        choose_backend(asked, host)


def test_a_backend_without_its_gpu_can_be_asked_for() -> None:
    choice = choose_backend(Backend.CUDA, with_(nvcc="/cuda/bin/nvcc"))
    assert (choice.backend, choice.reason) == (Backend.CUDA, "as asked")


@pytest.mark.parametrize(
    ("gpus", "toolkit", "architectures"),
    [
        ((), (12, 8), ()),
        (("9.0",), (12, 8), ("90-real",)),
        (("8.6", "8.9", "8.6"), (12, 4), ("86-real", "89-real")),
        (("6.0",), (12, 4), ("60-real",)),
        (("12.0",), (12, 8), ("120-real",)),
        (("10.0", "9.0"), (13, 0), ("90-real", "100-real")),
        (("5.2", "7.5"), (12, 4), ("75-real",)),
        (("6.1", "8.6"), (13, 0), ("86-real",)),
        (("9.0",), None, ("90-real",)),
    ],
)
def test_cuda_compiles_for_the_gpus_that_are_there(
    gpus: tuple[str, ...], toolkit: tuple[int, int] | None, architectures: tuple[str, ...]
) -> None:
    assert cuda_architectures(with_(nvidia_gpus=gpus, cuda_version=toolkit)) == architectures


@pytest.mark.parametrize(
    ("gpu", "toolkit", "message"),
    [
        ("5.2", (12, 4), "compute capability 5.2 is older than llama.cpp serves"),
        ("6.1", (13, 0), "compute capability 6.1 needs a CUDA toolkit before 13; nvcc is of 13.0"),
        ("12.0", (12, 4), "compute capability 12.0 needs CUDA toolkit 12.8 or newer; nvcc is of 12.4"),
        ("9.0", (11, 5), "needs CUDA toolkit 11.8 or newer"),
    ],
)
def test_a_gpu_that_the_toolkit_does_not_compile_for_is_an_error(
    gpu: str, toolkit: tuple[int, int], message: str
) -> None:
    with pytest.raises(EngineInstallError, match=message):
        cuda_architectures(with_(nvidia_gpus=(gpu,), cuda_version=toolkit))


FIXED = {
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_RPC=ON",
    "-DGGML_NATIVE=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_COMMIT=abc",
}


@pytest.mark.parametrize(
    ("backend", "host", "also"),
    [
        (Backend.CPU, PLAIN, {"-DGGML_CUDA=OFF", "-DGGML_METAL=OFF", "-DGGML_HIP=OFF", "-DGGML_VULKAN=OFF"}),
        (
            Backend.CUDA,
            CUDA,
            {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_COMPILER=/cuda/bin/nvcc", "-DCMAKE_CUDA_ARCHITECTURES=90-real"},
        ),
        (
            Backend.ROCM,
            with_(hipcc="/opt/hipcc", amd_gpus=("gfx1100", "gfx1030", "gfx1100")),
            {"-DGGML_HIP=ON", "-DGPU_TARGETS=gfx1030;gfx1100"},
        ),
        (Backend.METAL, MAC, {"-DGGML_METAL=ON"}),
        (Backend.VULKAN, PLAIN, {"-DGGML_VULKAN=ON", "-DGGML_METAL=OFF"}),
    ],
)
def test_cmakes_options(backend: Backend, host: BuildHost, also: set[str]) -> None:
    flags = build_options(backend, host, version="1.0", commit="abc").flags
    assert (FIXED | also) - set(flags) == set()
    assert sum(
        flag.endswith("=ON") for flag in flags if flag.split("=")[0].removeprefix("-DGGML_") in ACCELERATORS
    ) == (0 if backend is Backend.CPU else 1)


ACCELERATORS = {"CUDA", "HIP", "METAL", "VULKAN"}


def test_cuda_without_a_gpu_leaves_the_architectures_to_llama_cpp() -> None:
    flags = build_options(Backend.CUDA, with_(nvcc="/nvcc"), version="1.0", commit="abc").flags
    assert not any("ARCHITECTURES" in flag for flag in flags)


def test_a_name_tells_release_and_backend_and_differs_with_everything_else() -> None:
    def name(
        backend: Backend = Backend.CPU, host: BuildHost = PLAIN, commit: str = "abc", release: str = "0.3.36"
    ) -> str:
        return install_name(release, build_options(backend, host, version="1.0", commit=commit))

    assert name().startswith("0.3.36-cpu-")
    names = {
        name(),
        name(host=PLAIN.model_copy(update={"machine": "aarch64"})),
        name(commit="abd"),
        name(release="0.3.37"),
        name(Backend.CUDA, CUDA),
        name(Backend.CUDA, CUDA.model_copy(update={"nvidia_gpus": ("8.0",)})),
    }
    assert len(names) == 6
    assert install_name("0.3.36", build_options(Backend.CPU, PLAIN, version="1.0", commit="abc"), ["x"]) not in names
    assert name() == name(host=PLAIN.model_copy(update={"cores": 64, "memory": 512 * GIB}))


@pytest.mark.parametrize(
    ("backend", "cores", "memory", "jobs"),
    [
        (Backend.CPU, 8, 64 * GIB, 8),
        (Backend.CPU, 8, 3 * GIB, 3),
        (Backend.CUDA, 8, 6 * GIB, 3),
        (Backend.CPU, 8, 0, 1),
        (Backend.CUDA, 1, 64 * GIB, 1),
    ],
)
def test_jobs_by_cores_and_memory(backend: Backend, cores: int, memory: int, jobs: int) -> None:
    assert jobs_for(backend, with_(cores=cores, memory=memory)) == jobs


@given(backend=st.sampled_from(Backend), cores=st.integers(1, 512), memory=st.integers(0, 4096 * GIB))
def test_there_is_always_at_least_one_job_and_never_more_than_cores(backend: Backend, cores: int, memory: int) -> None:
    assert 1 <= jobs_for(backend, with_(cores=cores, memory=memory)) <= cores


@pytest.mark.parametrize("backend", Backend)
def test_too_little_disk_is_said_in_numbers(backend: Backend) -> None:
    needed = DISK_NEEDED[backend]
    assert disk_lack(backend, needed) == ""
    assert disk_lack(Backend.CPU, GIB // 2) == "a cpu build needs about 1 GiB, and 512 MiB are free"
    assert str(backend) in disk_lack(backend, needed - 1)
