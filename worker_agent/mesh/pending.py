"""Those who have connected and not shown who they are yet, and those who were sent away."""

import asyncio
from collections import Counter

import structlog

log = structlog.get_logger()

_REPORT_SECONDS = 10.0


class Pending:
    """Never many: for a new one the oldest goes, of the address that has the most. A crowd pushes itself out."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._addresses: dict[asyncio.Task[None], str] = {}  # oldest first
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, task: asyncio.Task[None], address: str) -> None:
        """One more has come: ends another where there are too many."""
        if len(self._addresses) >= self._most:
            crowd = self._counts.most_common(1)[0][0]
            oldest = next(one for one, where in self._addresses.items() if where == crowd)
            self.remove(oldest)
            oldest.cancel()
        self._addresses[task] = address
        self._counts[address] += 1

    def remove(self, task: asyncio.Task[None]) -> None:
        """It is known, or gone. May be repeated."""
        address = self._addresses.pop(task, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


class Refusals:
    """Counts who was sent away, and logs it now and then: with a line for each, strangers could fill the disk."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._told_at = float("-inf")

    def count(self, reason: str, address: str, **facts: str) -> None:
        """One was sent away."""
        self._counts[reason] += 1
        self._last = {"address": address, **facts}
        self.tell()

    def tell(self) -> None:
        """Logs what was counted, if the last line is some time ago."""
        now = asyncio.get_running_loop().time()
        if self._counts and now - self._told_at >= _REPORT_SECONDS:
            log.warning("connections_refused", counts=dict(self._counts), last=self._last)
            self._counts.clear()
            self._told_at = now
