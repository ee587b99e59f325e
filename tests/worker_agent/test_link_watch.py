"""A main server goes with its link."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.cluster import WAIT_SECONDS
from tests.worker_agent.conftest import KEY
from worker_agent.link_watch import FirstFault, LinkWatch
from worker_agent.pids import birth_of
from worker_agent.records import ProcessExit, ProcessRecord, RecordStore

pytestmark = pytest.mark.anyio

MAIN = ProcessRecord(key=KEY, pid=1, members=("here", "there"), rpc_peers={"127.0.0.1:4711": "there"})
LINK_KEY = KEY.model_copy(update={"role": "link"})


@pytest.fixture
def records(tmp_path: Path) -> RecordStore:
    """Of one host."""
    return RecordStore(tmp_path / "processes")


def lives(records: RecordStore) -> None:
    """The link is this very process."""
    records.save(ProcessRecord(key=LINK_KEY, pid=os.getpid(), birth=birth_of(os.getpid())))


async def fault(records: RecordStore, record: ProcessRecord = MAIN) -> ProcessExit:
    """What ends the main server, at last."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await LinkWatch(records, look_seconds=0.01).fault(record)


async def never(records: RecordStore, record: ProcessRecord = MAIN) -> None:
    """After a hundred looks it is let be."""
    watch = asyncio.ensure_future(LinkWatch(records, look_seconds=0).fault(record))
    for _ in range(100):
        await asyncio.to_thread(lambda: None)
    assert not watch.done()
    watch.cancel()


async def test_a_link_whose_process_is_gone(records: RecordStore) -> None:
    link = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    records.save(ProcessRecord(key=LINK_KEY, pid=link.pid, birth=birth_of(link.pid)))
    watch = asyncio.ensure_future(fault(records))
    await asyncio.sleep(0)
    assert not watch.done()
    link.kill()
    assert (await watch).cause == "its link to there has ended"
    await link.wait()


async def test_a_link_that_was_seen_to_end(records: RecordStore) -> None:
    records.save(ProcessRecord(key=LINK_KEY, pid=os.getpid(), birth="", exit=ProcessExit(cause="lost", worker="there")))
    assert (await fault(records)).cause == "its link to there has ended"


async def test_a_link_that_nobody_knows_ends_nothing(records: RecordStore) -> None:
    await never(records)


async def test_while_it_lives(records: RecordStore) -> None:
    lives(records)
    await never(records)


async def test_a_damaged_record_ends_nothing(records: RecordStore) -> None:
    records.path(LINK_KEY).write_text("{")
    await never(records)


async def test_one_without_a_link(records: RecordStore) -> None:
    await never(records, MAIN.model_copy(update={"rpc_peers": {}}))


class Says:
    """A guard that says so at once, or never."""

    def __init__(self, cause: str = "") -> None:
        self.cause, self.left = cause, False

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """See `Guard`."""
        try:
            if not self.cause:
                await asyncio.Event().wait()
            return ProcessExit(cause=self.cause)
        finally:
            self.left = True


async def test_the_first_of_several_guards_counts() -> None:
    silent, speaking = Says(), Says("frozen")
    assert (await FirstFault(silent, speaking).fault(MAIN)).cause == "frozen"
    assert silent.left, "nobody goes on watching"
