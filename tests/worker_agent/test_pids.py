"""What the operating system says of real processes."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_agent.pids import ExitWatch, birth_of, find_marked, is_alive, listening_port, reap, resident_bytes

NOBODY = 2**22 + 1  # above the kernel's largest pid


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child that ends when its stdin closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"MARK": "it"},
        start_new_session=True,
    )
    yield process
    process.communicate()


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and waits until it is a zombie: not collected."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_birth_tells_processes_apart_and_stays_the_same(child: subprocess.Popen[bytes]) -> None:
    assert birth_of(child.pid) == birth_of(child.pid) != ""
    assert birth_of(child.pid) != birth_of(os.getpid())
    assert birth_of(NOBODY) == ""


def test_a_zombie_is_not_alive(child: subprocess.Popen[bytes]) -> None:
    birth = birth_of(child.pid)
    assert is_alive(child.pid, birth)
    assert not is_alive(child.pid, "boot:1")
    assert not is_alive(child.pid, "")
    end(child)
    assert birth_of(child.pid) == birth
    assert not is_alive(child.pid, birth)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kernel_that_does_not_answer_is_not_taken_for_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    birth = birth_of(os.getpid())

    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        is_alive(os.getpid(), birth)


def test_only_a_child_of_that_birth_is_reaped(child: subprocess.Popen[bytes]) -> None:
    birth = birth_of(child.pid)
    assert reap(child.pid, birth) is None
    end(child)
    assert reap(child.pid, "boot:1") is None
    assert reap(child.pid, birth) == -9
    assert reap(child.pid, birth) is None
    assert reap(os.getppid(), birth_of(os.getppid())) is None


def test_a_process_is_found_by_its_mark(child: subprocess.Popen[bytes]) -> None:
    assert find_marked("MARK", "it") == child.pid
    assert find_marked("MARK", "other") == 0
    end(child)
    assert find_marked("MARK", "it") == 0


LISTENS = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as idle:
    idle.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    input()
"""


def test_the_port_is_the_one_it_listens_on() -> None:
    # In a process of its own: this one may still hold a server of an earlier test.
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert listening_port(process.pid) == port
        process.communicate(b"\n")
    assert listening_port(NOBODY) == 0


def test_resident_bytes() -> None:
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(NOBODY) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("pidfds", [True, False])
async def test_an_end_is_told_once(
    child: subprocess.Popen[bytes], pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfds:
        monkeypatch.setattr(os, "pidfd_open", _refuse, raising=False)
    ended = asyncio.Event()
    told: list[int] = []

    def tell() -> None:
        told.append(1)
        ended.set()

    watch = ExitWatch(child.pid, birth_of(child.pid), tell)
    await asyncio.sleep(0)
    assert told == []
    child.kill()
    async with asyncio.timeout(30):
        await ended.wait()
    watch.close()
    assert told == [1]


@pytest.mark.anyio
@pytest.mark.parametrize("pid", [NOBODY, os.getpid()], ids=["nobody", "another"])
async def test_an_end_that_was_before_is_told_too(pid: int) -> None:
    ended = asyncio.Event()
    ExitWatch(pid, "boot:1", ended.set)
    assert not ended.is_set()  # not from within: the caller is not ready for it yet
    async with asyncio.timeout(30):
        await ended.wait()


@pytest.mark.anyio
async def test_a_closed_watch_tells_nothing(child: subprocess.Popen[bytes]) -> None:
    told: list[int] = []
    watch = ExitWatch(child.pid, birth_of(child.pid), lambda: told.append(1))
    watch.close()
    watch.close()
    end(child)
    other = asyncio.Event()
    ExitWatch(child.pid, birth_of(child.pid), other.set)
    async with asyncio.timeout(30):
        await other.wait()
    assert told == []


def _refuse(_pid: int) -> int:
    raise OSError("no pidfds in this sandbox")
