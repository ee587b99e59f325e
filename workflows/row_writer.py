"""Keeps a row as a workflow wants it seen, without making the workflow wait for the database."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from temporalio import workflow

T = TypeVar("T")


class RowWriter(Generic[T]):
    """Level-triggered: `want` says how the row should be now, and only the latest wish is written.

    Writes never overlap, so an older wish cannot overtake a newer one.
    """

    def __init__(self, write: Callable[[T], Awaitable[None]]) -> None:
        self._write = write
        self._wanted: T | None = None
        self._written: T | None = None
        self._task: asyncio.Task[None] | None = None

    def want(self, row: T) -> None:
        """From now on the row should be like this."""
        self._wanted = row
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def flush(self) -> None:
        """Returns when the latest wish is written."""
        await workflow.wait_condition(lambda: self._wanted == self._written)

    async def _run(self) -> None:
        while self._wanted is not None and self._wanted != self._written:
            row = self._wanted
            await self._write(row)
            self._written = row
