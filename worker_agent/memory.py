"""The host's RAM as this process may use it: what is built in, or less where a cgroup limits it."""

from pathlib import Path

import psutil

from stoker.domain.base import Bytes, Value


class HostMemory(Value):
    """Bytes. `used`: by anyone, what the kernel would give up on demand (page cache) not counted."""

    total: Bytes
    used: Bytes


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """The tightest of the machine and the memory cgroups (v1 and v2) that this process is in.

    `root`: where /proc and /sys are looked for.
    """
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for limit, used in _cgroup_limits(root):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return HostMemory(total=total, used=total - min(available, total))


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) in bytes of each memory cgroup above this process that has a limit."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []  # no Linux
    found = []
    for _, controllers, path in (line.split(":", 2) for line in memberships if line.count(":") >= 2):
        if controllers == "":
            files = ("memory.max", "memory.current", "inactive_file")
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        # In a container the path may be the host's and not exist here: the mount itself is then its own group.
        steps = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(steps), -1, -1):
            limit = _read_limit(mount.joinpath(*steps[:depth]), *files)
            if limit is not None:
                found.append(limit)
    return found


def _read_limit(folder: Path, limit_file: str, usage_file: str, cache_field: str) -> tuple[int, int] | None:
    """None where there is no limit. v2 writes `max` for it, v1 a number beyond any memory."""
    try:
        limit = (folder / limit_file).read_text().strip()
        usage = int((folder / usage_file).read_text())
        stat = (folder / "memory.stat").read_text()
    except (OSError, ValueError):
        return None
    if not limit.isdigit() or int(limit) >= 1 << 62:
        return None
    cache = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{cache_field} ")), 0)
    return int(limit), max(0, usage - cache)
