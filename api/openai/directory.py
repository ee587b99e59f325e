"""The models that there are, and how to find one that is asked for."""

import asyncio
from collections.abc import Callable

import structlog

from api.openai.errors import model_not_found
from api.openai.router import ModelRoute, RouteSource, RouteTable

_log = structlog.get_logger()


class Directory:
    """The route table, read anew when somebody asks for what is not in it. For one event loop."""

    def __init__(self, source: RouteSource, refresh_time: float, changed: Callable[[RouteTable], None]) -> None:
        """Waits `refresh_time` seconds at most for a newer table; `changed` is told of each that is taken up."""
        self._source, self._refresh_time, self._changed = source, refresh_time, changed
        self._known = RouteTable()
        self._refreshing: set[asyncio.Task[RouteTable]] = set()
        self._overdue: asyncio.Task[RouteTable] | None = None  # that took longer than anybody waits, and goes on

    def table(self) -> RouteTable:
        """The table as it is known now."""
        table = self._source.current()
        if table is not self._known:
            self._known = table
            self._changed(table)
        return table

    async def refreshed(self) -> RouteTable:
        """The table as it is now, or was at the last time that it could be read."""
        # A read is not ended with the wait for it: its thread would go on, and each further one take another thread.
        task = self._overdue
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._source.refresh())
            self._refreshing.add(task)
            task.add_done_callback(self._refreshed)
        await asyncio.wait({task}, timeout=self._refresh_time)
        if not task.done():
            self._overdue = task  # whoever asks next waits for this one
            _log.warning("route_refresh_timed_out", seconds=self._refresh_time)
        return self.table()

    def _refreshed(self, task: asyncio.Task[RouteTable]) -> None:
        self._refreshing.discard(task)
        if task is self._overdue:
            self._overdue = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("route_refresh_failed", error=repr(error))

    async def deployment(self, name: str) -> ModelRoute | None:
        """A deployment, from a newer table if it is unknown or has no engine; None when there is none."""
        found = self.table().models.get(name)
        if found is None or not found.replicas:
            found = (await self.refreshed()).models.get(name)
        return found

    async def has(self, name: str) -> RouteTable:
        """The table in which `name` stands, as a deployment's or a route's. Raises APIError (404)."""
        table = self.table()
        if name not in table.models and name not in table.routes:
            table = await self.refreshed()
            if name not in table.models and name not in table.routes:
                raise model_not_found(name)
        return table
