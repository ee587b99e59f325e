"""An instance's main server, as its workflow holds it."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.ports import MainServerSpec, ProcessKey
    from activities.servers import ServerActivities
    from activities.types import DrainInput, ProcessEnd
    from stoker.domain.base import WorkerName
    from stoker.domain.naming import worker_queue
    from workflows import options
    from workflows.endings import lost_worker, too_slow
    from workflows.host_process import HostProcess


class MainServer:
    """One that has all its devices on its own host. Starting it is making it.

    `lost`: workers of which no word is waited for any more, each with the reason; it may grow.
    """

    def __init__(self, spec: MainServerSpec, lost: Mapping[WorkerName, str]) -> None:
        self._key, self._lost = spec.key, lost
        self._process = start_main_server(spec, lost)

    def too_slow(self, within: timedelta) -> ProcessEnd:
        """What it means that no request could be answered `within` this time."""
        return too_slow("the main server", within)

    @property
    def is_up(self) -> bool:
        """Whether there is a process to be ended."""
        return not self._process.has_ended

    @property
    def may_be_left(self) -> tuple[WorkerName, ...]:
        """Where a process may still be that nobody has seen to be gone."""
        return (self._process.worker,) if self._process.may_be_left else ()

    def has_ended(self) -> bool:
        """Whether it serves no more: its process is over, or its host is gone."""
        return self._process.has_ended or self._process.worker in self._lost

    async def end(self) -> ProcessEnd:
        """How it ended, once it has. Raises ActivityError."""
        if not self._process.has_ended and self._process.worker in self._lost:
            return lost_worker(self._process.worker, self._lost)
        return await self._process.end()

    async def let_requests_end(self, patience: Callable[[], float]) -> None:
        """Waits for the requests in work, so many seconds at most; the route must have been withdrawn before."""
        await drain_main_server(self._key, self._process.worker, patience)

    async def stop(self) -> None:
        """Ends the process; returns when it is confirmed gone, or its host is."""
        await self._process.stop()


def start_main_server(spec: MainServerSpec, lost: Mapping[WorkerName, str]) -> HostProcess:
    """Starts llama-server, on the host that the placement says."""
    worker = spec.placement.worker
    activity = workflow.start_activity_method(
        ServerActivities.serve_main,
        spec,
        summary=f"llama-server of {spec.key.instance_id} on {worker}",
        **options.on_queue(options.SERVE, worker_queue(worker)),
    )
    return HostProcess(activity, "the main server", worker, lost)


async def drain_main_server(key: ProcessKey, worker: WorkerName, patience: Callable[[], float]) -> None:
    """Waits for the requests in work, so many seconds at most. Where the patience shrinks, it begins anew with less."""
    while True:
        given = patience()
        draining = workflow.start_activity_method(
            ServerActivities.drain_main,
            DrainInput(
                instance_id=key.instance_id,
                incarnation=key.incarnation,
                settle_seconds=options.DRAIN_SETTLE_SECONDS,
                timeout_seconds=given,
            ),
            summary="let running requests end",
            **options.on_queue(options.drain(given), worker_queue(worker)),
        )
        await workflow.wait_condition(lambda: draining.done() or patience() < given)  # noqa: B023
        if draining.done():
            break
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
    try:
        await draining
    except ActivityError as error:
        workflow.logger.warning("drain failed, stopping anyway: %s", error.cause)
