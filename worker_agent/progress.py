"""How far this host's instances have come, as last shown by whoever works for them."""

import asyncio
import time

from stoker.domain.base import InstanceId
from stoker.domain.statuses import Progress

FORGET_AFTER_SECONDS = 10.0
"""Work that goes on shows its progress more often than this; the rest is over."""


class ProgressBoard:
    """Written by downloads and by the watcher of processes, read by the report. One event loop's."""

    def __init__(self) -> None:
        self._shown: dict[InstanceId, tuple[float, Progress]] = {}
        self._changed = asyncio.Event()

    def show(self, instance_id: InstanceId, progress: Progress) -> None:
        """Keeps the latest progress, with its rate worked out from the one before."""
        now = time.monotonic()
        before = self._shown.get(instance_id)
        if before is not None and not progress.rate:
            progress = progress.model_copy(update={"rate": _rate(before, now, progress)})
        if before is None or before[1].done != progress.done:
            self._shown[instance_id] = (now, progress)
            self._changed.set()

    def touch(self) -> None:
        """Something that is not shown here has changed, and is worth a report now."""
        self._changed.set()

    def current(self) -> dict[InstanceId, Progress]:
        """What is going on now."""
        oldest = time.monotonic() - FORGET_AFTER_SECONDS
        self._shown = {key: entry for key, entry in self._shown.items() if entry[0] >= oldest}
        return {key: progress for key, (_, progress) in self._shown.items()}

    async def changed(self) -> None:
        """Returns when there is something new since the last time."""
        await self._changed.wait()
        self._changed.clear()


def _rate(before: tuple[float, Progress], now: float, progress: Progress) -> float:
    """Bytes a second, smoothed: half of what was, half of what is."""
    at, last = before
    if now <= at or progress.done < last.done:
        return last.rate
    latest = (progress.done - last.done) / (now - at)
    return latest if not last.rate else (last.rate + latest) / 2
