"""Ends a group's main server whose link has ended: it serves nobody any more, and while it idles it does not notice.

Its workflow would tell this agent the same, if it can reach it: a host that is cut off would otherwise keep the memory.
"""

import asyncio

from worker_agent.pids import is_alive
from worker_agent.processes import Guard
from worker_agent.records import ProcessExit, ProcessRecord, RecordStore

LOOK_SECONDS = 0.5


class LinkWatch:
    """Stays with a main server until its link is gone. A `Guard`; one that has no link is never ended by it."""

    def __init__(self, records: RecordStore, look_seconds: float = LOOK_SECONDS) -> None:
        """`records`: of this host's processes."""
        self._records, self._look_seconds = records, look_seconds

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """See `Guard`."""
        if not record.rpc_peers:
            await asyncio.Event().wait()
        while await asyncio.to_thread(self._link_lives, record):  # noqa: ASYNC110 - nobody would set an Event
            await asyncio.sleep(self._look_seconds)
        return ProcessExit(cause=f"its link to {', '.join(record.members[1:])} has ended")

    def _link_lives(self, record: ProcessRecord) -> bool:
        link = self._records.load(record.key.model_copy(update={"role": "link"}))
        if link is None or link.damaged:  # nothing is known of it
            return True
        return link.exit is None and is_alive(link.pid, link.birth)


class FirstFault:
    """Several guards as one: what the first of them says, counts."""

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    async def fault(self, record: ProcessRecord) -> ProcessExit:
        """See `Guard`. A guard that fails takes all with it."""
        tasks = [asyncio.ensure_future(guard.fault(record)) for guard in self._guards]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
