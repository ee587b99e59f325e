"""What a machine has for a build, from scripted compilers and vendors' tools."""

from pathlib import Path

import pytest

from tests.worker_agent.fake_build import program
from worker_agent.engine_host import look_at_host

NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n"
SMI = "#!/bin/sh\necho 9.0\necho 8.6\n"
ROCM = "#!/bin/sh\necho gfx000\necho gfx1100\necho gfx90a\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with nothing in it."""
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """The only folder of the PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


def test_an_empty_machine(root: Path, bin_: Path) -> None:
    host = look_at_host({"PATH": str(bin_)}, root)
    assert (host.cxx, host.nvcc, host.hipcc, host.glslc) == ("", "", "", "")
    assert (host.nvidia_gpus, host.amd_gpus, host.vulkan_headers, host.render_node) == ((), (), False, False)
    assert host.cores >= 1
    assert host.memory > 0


def test_this_machine_has_a_compiler() -> None:
    assert look_at_host().cxx


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_a_compiler_on_the_path(root: Path, bin_: Path, name: str) -> None:
    path = program(bin_ / name, "#!/bin/sh\n")
    assert look_at_host({"PATH": str(bin_)}, root).cxx == str(path)


def test_the_compiler_that_the_environment_names(root: Path, bin_: Path, tmp_path: Path) -> None:
    program(bin_ / "c++", "#!/bin/sh\n")
    mine = program(tmp_path / "mine" / "my-g++", "#!/bin/sh\n")
    assert look_at_host({"PATH": str(bin_), "CXX": f"{mine} -m64"}, root).cxx == str(mine)


def test_cuda_with_two_gpus(root: Path, bin_: Path) -> None:
    nvcc = program(bin_ / "nvcc", NVCC)
    program(bin_ / "nvidia-smi", SMI)
    host = look_at_host({"PATH": str(bin_)}, root)
    assert (host.nvcc, host.cuda_version, host.nvidia_gpus) == (str(nvcc), (12, 8), ("9.0", "8.6"))


@pytest.mark.parametrize(
    "smi",
    [
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the driver. 9.0'\nexit 9\n",
        "#!/bin/sh\necho 'No devices were found'\n",
        "no program",
    ],
)
def test_a_driver_that_does_not_answer_is_no_gpu(root: Path, bin_: Path, smi: str) -> None:
    program(bin_ / "nvidia-smi", smi)
    assert look_at_host({"PATH": str(bin_)}, root).nvidia_gpus == ()


def test_nvcc_beside_the_path(root: Path, bin_: Path, tmp_path: Path) -> None:
    usual = program(root / "usr/local/cuda/bin/nvcc", NVCC)
    assert look_at_host({"PATH": str(bin_)}, root).nvcc == str(usual)
    named = program(tmp_path / "cuda-12" / "bin" / "nvcc", NVCC)
    assert look_at_host({"PATH": str(bin_), "CUDACXX": str(named)}, root).nvcc == str(named)


def test_rocm(root: Path, bin_: Path) -> None:
    hipcc = program(root / "opt/rocm/bin/hipcc", "#!/bin/sh\n")
    program(root / "opt/rocm/bin/rocm_agent_enumerator", ROCM)
    host = look_at_host({"PATH": str(bin_)}, root)
    assert (host.hipcc, host.amd_gpus) == (str(hipcc), ("gfx1100", "gfx90a"))


def test_vulkan(root: Path, bin_: Path) -> None:
    glslc = program(bin_ / "glslc", "#!/bin/sh\n")
    environment = {"PATH": str(bin_)}
    (root / "dev/dri").mkdir(parents=True)
    (root / "dev/dri/renderD128").touch()
    program(root / "usr/include/vulkan/vulkan.h", "")
    host = look_at_host(environment, root)
    assert (host.glslc, host.vulkan_headers, host.render_node) == (str(glslc), False, True)
    program(root / "usr/include/spirv/unified1/spirv.hpp", "")
    assert look_at_host(environment, root).vulkan_headers
