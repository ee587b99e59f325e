"""A cancellation in Temporal as a request that a workflow sees, instead of an exception that strikes anywhere in it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from temporalio import workflow

T = TypeVar("T")


def is_cancelled() -> bool:
    """Whether somebody cancelled this workflow in Temporal. Fit for wait conditions: it stays true."""
    return workflow.cancellation_reason() is not None


async def uninterrupted(life: Coroutine[Any, Any, T]) -> T:
    """Runs `life` to its own end, whatever cancels the workflow: it is to look at `is_cancelled`.

    The SDK raises a cancellation once, in whatever is being awaited: in the middle of a tear-down it would leave claims
    behind, and while a signal is being sent it is swallowed.
    """
    task = asyncio.create_task(life)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Not a cancellation in Temporal: the workflow is being evicted from the cache.
            if task.done() or not is_cancelled():
                raise
