"""RAM as far as cgroups let this process have it. The trees are laid out as Linux documents them."""

from pathlib import Path

import psutil
import pytest

from stoker.domain.units import MIB
from worker_agent.memory import read_host_memory

V1_UNLIMITED = str(0x7FFFFFFFFFFFF000)


def put(root: Path, files: dict[str, str]) -> None:
    """Writes a tree of small files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def v2(folder: str, limit: str, current: int, inactive: int = 0) -> dict[str, str]:
    """The files of a cgroup v2."""
    base = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{base}/memory.max": limit,
        f"{base}/memory.current": str(current),
        f"{base}/memory.stat": f"anon 1\nfile 2\ninactive_file {inactive}\nactive_file 3",
    }


def v1(folder: str, limit: str, usage: int, inactive: int = 0) -> dict[str, str]:
    """The files of a cgroup v1."""
    base = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
    return {
        f"{base}/memory.limit_in_bytes": limit,
        f"{base}/memory.usage_in_bytes": str(usage),
        f"{base}/memory.stat": f"cache 9\ninactive_file 9\ntotal_inactive_file {inactive}",
    }


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/"},
        {"proc/self/cgroup": "0::/a/b", **v2("a/b", "max", 5)},
        {"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/a\n0::/", **v1("a", V1_UNLIMITED, 5)},
        {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "1"},  # unreadable usage: no limit that we know of
    ],
)
def test_without_a_limit_it_is_the_machine(tmp_path: Path, files: dict[str, str]) -> None:
    put(tmp_path, files)
    memory = read_host_memory(tmp_path)
    assert memory.total == psutil.virtual_memory().total
    assert 0 < memory.used < memory.total


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/a/b", **v2("a/b", str(64 * MIB), 20 * MIB, 4 * MIB)},
        {"proc/self/cgroup": "0::/", **v2("", str(64 * MIB), 20 * MIB, 4 * MIB)},  # in a container with a namespace
        # the group itself is wide; the one above it is not
        {"proc/self/cgroup": "0::/a/b", **v2("a/b", "max", 9), **v2("a", str(64 * MIB), 20 * MIB, 4 * MIB)},
        {"proc/self/cgroup": "4:memory:/a/b", **v1("a/b", str(64 * MIB), 20 * MIB, 4 * MIB)},
        # in a container, v1 names the host's path, which is not there
        {"proc/self/cgroup": "4:memory:/docker/1", **v1("", str(64 * MIB), 20 * MIB, 4 * MIB)},
    ],
)
def test_a_limit_counts_and_page_cache_does_not(tmp_path: Path, files: dict[str, str]) -> None:
    put(tmp_path, files)
    memory = read_host_memory(tmp_path)
    assert (memory.total, memory.used) == (64 * MIB, 16 * MIB)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/cgroup": "0::/", **v2("", str(1 << 50), 20 * MIB)})
    assert read_host_memory(tmp_path).total == psutil.virtual_memory().total


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/cgroup": "0::/", **v2("", str(64 * MIB), 80 * MIB)})
    memory = read_host_memory(tmp_path)
    assert memory.used == memory.total == 64 * MIB


def test_this_machine_can_be_read() -> None:
    memory = read_host_memory()
    assert 0 < memory.used <= memory.total <= psutil.virtual_memory().total
