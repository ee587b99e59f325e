"""One place among the server's processes, with a small program in it that only says that it answers."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import psutil
import pytest

from entrypoints.served import Served, StartError
from tests.cluster import eventually

pytestmark = pytest.mark.anyio

PROGRAM = """
import pathlib, socket, sys, time
parent = socket.socket(fileno=int(sys.argv[-1]))
gate = pathlib.Path(sys.argv[1])
while not gate.exists():
    time.sleep(0.01)
parent.sendall(b"ready\\n")
parent.recv(1)
"""
"""Answers once the file is there, and ends with its parent or when it is told to."""


def children() -> set[int]:
    """Ours."""
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


@asynccontextmanager
async def place(*command: str) -> AsyncIterator[Served]:
    """A place, kept filled. At the end it is empty, and nothing of it is left."""
    before = children()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        slot = Served(0, command, listener, 0.5)
        await slot.start()
        keeping = asyncio.create_task(slot.keep())
        try:
            yield slot
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            async with asyncio.timeout(20):
                await slot.end()
    assert children() == before


class Turn(asyncio.Lock):
    """Knows how often somebody wanted to put a process into the place, whoever got the turn."""

    asked_for = 0

    async def acquire(self) -> Literal[True]:
        self.asked_for += 1
        return await super().acquire()


async def test_a_process_that_died_and_is_renewed_at_once_has_one_successor(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    others = children()
    async with place(sys.executable, "-c", PROGRAM, str(gate)) as slot:
        (first,) = children() - others
        gate.unlink()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(children() - others - {first}) == 1, children)
        (second,) = children() - others - {first}
        renewing = asyncio.create_task(slot.renew())  # while another one is being started already
        await asyncio.sleep(0)
        gate.touch()
        await asyncio.wait_for(renewing, 20)
        await eventually(lambda: second not in children(), children)
        assert len(children() - others) == 1


async def test_a_process_that_dies_while_it_is_renewed_has_one_successor(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    others = children()
    async with place(sys.executable, "-c", PROGRAM, str(gate)) as slot:
        (first,) = children() - others
        gate.unlink()
        turn = slot._turn = Turn()
        renewing = asyncio.create_task(slot.renew())
        await eventually(lambda: len(children() - others) == 2, children)
        (second,) = children() - others - {first}
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: turn.asked_for == 2, lambda: turn.asked_for)  # `keep` would start another one, too
        gate.touch()
        await asyncio.wait_for(renewing, 20)
        assert children() - others == {second}
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: bool(children() - others - {second}), children)


async def test_a_process_that_the_system_does_not_start_is_no_end_of_the_others(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    others = children()
    program = tmp_path / "program"
    program.symlink_to(sys.executable)
    async with place(str(program), "-c", PROGRAM, str(gate)) as slot:
        running = children() - others
        program.unlink()
        await slot.renew()
        assert children() - others == running, "the old one stays"
        os.kill(running.pop(), signal.SIGKILL)
        await eventually(lambda: not children() - others, children)
        with pytest.raises(StartError):
            await slot.start()
        program.symlink_to(sys.executable)
        await eventually(lambda: len(children() - others) == 1, children)
