"""One instance: exactly one placement and its processes, from the first try to the last byte given back.

1. place: claims in one transaction; without room it is pending until a `capacity` signal.
2. fetch: the model's files, on the host that was chosen.
3. serve: the main server, an activity that lasts as long as the process; over several workers, a `Group` of them.
4. tear down: on a stop or on any exit: drain, kill, confirm, and only then release the claims.
5. A stop ends the workflow; an exit leads to the next incarnation, after a pause that grows.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.downloads import DownloadActivities
    from activities.placement import PlacementActivities
    from activities.ports import MainServerSpec, ProcessKey
    from activities.types import FetchResult, LinkReady, MainReady, ProcessEnd, ReleaseInput, RpcReady
    from stoker.domain.base import WorkerName
    from stoker.domain.deployments import InstanceState
    from stoker.domain.models import SourceKind
    from stoker.domain.naming import (
        CAPACITY_SIGNAL,
        LINK_READY_SIGNAL,
        READY_SIGNAL,
        RPC_READY_SIGNAL,
        WORKER_LOST_SIGNAL,
        download_queue,
    )
    from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
    from stoker.domain.restarts import failures_after, patience_after, restart_delay
    from stoker.domain.units import format_bytes
    from workflows import options
    from workflows.avoidance import avoided_after, avoided_now
    from workflows.cancellation import is_cancelled, uninterrupted
    from workflows.endings import end_of, lost_worker
    from workflows.fetching import fetch_input
    from workflows.group import Group
    from workflows.instance_report import InstanceReport
    from workflows.main_server import MainServer
    from workflows.types import InstanceInput, StopRequest, WorkerLost
    from workflows.visibility import show_phase

_LEAST_PAUSE = 0.001  # seconds: there is a timer always, however long the tear-down took


@workflow.defn
class Instance:
    """See the module's docstring for the numbered life; `InstanceState` names where it is."""

    @workflow.init
    def __init__(self, input: InstanceInput) -> None:
        self._input = input
        self._report = InstanceReport(input)
        self._stop: StopRequest | None = None
        self._capacity = False
        self._waits_since: float | None = None
        self._server: MainServer | Group | None = None
        self._lost: dict[WorkerName, str] = {}  # workers of the placement that are waited for no more, and why
        self._running_since: float | None = None

    @workflow.signal
    def stop(self, request: StopRequest) -> None:
        """End, whatever you are doing."""
        self._stop = self._stop or request

    @workflow.signal(name=CAPACITY_SIGNAL)
    def capacity(self) -> None:
        """You may fit now."""
        self._capacity = True

    @workflow.signal(name=READY_SIGNAL)
    def main_ready(self, ready: MainReady) -> None:
        """The main server answers, or (port 0) does so no more."""
        known = self._report.ready
        if ready.incarnation != self._input.incarnation or (known is None and not ready.port):
            return
        if known is not None and known.pid == ready.pid:  # told again: what was seen when it loaded holds
            seen = {"load_seconds": ready.load_seconds or known.load_seconds, "memory": known.memory or ready.memory}
            ready = ready.model_copy(update=seen)
        self._report.ready = ready

    @workflow.signal(name=RPC_READY_SIGNAL)
    def rpc_ready(self, ready: RpcReady) -> None:
        """A worker's RPC server waits for the main server."""
        if ready.incarnation == self._input.incarnation and isinstance(self._server, Group):
            self._server.rpc_ready(ready)

    @workflow.signal(name=LINK_READY_SIGNAL)
    def link_ready(self, ready: LinkReady) -> None:
        """The way from the main server's host to the RPC servers is open."""
        if ready.incarnation == self._input.incarnation and isinstance(self._server, Group):
            self._server.link_ready(ready)

    @workflow.signal(name=WORKER_LOST_SIGNAL)
    def worker_lost(self, lost: WorkerLost) -> None:
        """Go on without that worker, if you use it, and wait for no word of it."""
        placement = self._report.placement
        if placement is not None and lost.worker in placement.workers:
            self._lost[lost.worker] = lost.reason

    @workflow.query
    def state(self) -> InstanceState:
        """Where the instance is in its life."""
        return self._report.state

    @workflow.run
    async def run(self, input: InstanceInput) -> None:
        """Lives one incarnation. Returns when it was stopped; continues-as-new when it is to be started again."""
        await uninterrupted(self._incarnation())

    async def _incarnation(self) -> None:
        end = await self._live()
        if self._lost and not end.cause and not self._stopping():
            end = lost_worker(next(iter(self._lost)), self._lost)
        failures, ended_at = self._failures(), workflow.time()
        self._report.failures = failures
        await self._tear_down(end)
        if not self._stopping():
            await self._wait_for_next(end, restart_delay(failures) - (workflow.time() - ended_at))
        if not self._stopping():
            workflow.continue_as_new(self._next_incarnation(end, failures))
        await self._finish()

    def _stopping(self) -> bool:
        """Whether the instance is to end: by its deployment's signal, or because it was cancelled in Temporal."""
        if self._stop is None and is_cancelled():
            self._stop = StopRequest(reason="cancelled in Temporal")
        return self._stop is not None

    # --- 1 to 3 ------------------------------------------------------------------------------------------------------

    async def _live(self) -> ProcessEnd:
        """Until the main server ends by itself or a stop is asked for. What went wrong is the result's cause."""
        try:
            placement = await self._place()
            if placement is None:
                return ProcessEnd(cause="")
            path = await self._fetch(placement)
            if path is None:
                return ProcessEnd(cause="")
            return await self._serve(placement, path)
        except ActivityError as error:
            return end_of(error, self._report.placement)

    async def _place(self) -> Placement | None:
        """A placement, however long it takes; None when a stop came first."""
        request = PlacementRequest(
            instance_id=self._input.instance_id,
            incarnation=self._input.incarnation,
            generation=self._input.generation,
            spec=self._input.spec,
            profile=self._input.profile,
            files=self._input.files,
            avoid=avoided_now(self._input, workflow.time()),
        )
        show_phase(self._report.state, details=f"Looking for a place for `{self._input.spec.model}`.")
        while not self._stopping():
            self._capacity = False  # before the look: a signal during it must lead to another
            result = await workflow.execute_activity_method(
                PlacementActivities.place,
                request,
                summary=f"place {self._input.instance_id}, incarnation {self._input.incarnation}",
                **options.TRANSACTION,
            )
            if result.placement is not None:
                self._report.placement = result.placement
                return result.placement
            if result.unplaceable is not None:
                await self._wait_for_room(result.unplaceable)
                if not self._stopping() and workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(self._input)  # the same incarnation: it looks again at once
        return None

    async def _wait_for_room(self, why: Unplaceable) -> None:
        await self._report.enter_pending(why)
        now = workflow.time()
        self._waits_since = now if self._waits_since is None else self._waits_since
        waited = timedelta(seconds=now - self._waits_since)
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._capacity or self._stopping(),
                timeout=options.next_recheck(waited, workflow.random().random()),
                timeout_summary="waits for room; looks again after this time even if no signal comes",
            )
        if not self._stopping():
            # Not projected: the row stays `pending` until the claiming transaction decides anew. A write of ours could
            # come after that decision, and hide a waiting instance from whoever frees room.
            await self._report.enter(InstanceState.PLACING, "looking for a place again", project=False)

    async def _fetch(self, placement: Placement) -> str | None:
        """The path to give to the engine; None when a stop came first, or the worker is lost."""
        files = self._input.files
        if files.source.kind is SourceKind.FILE:
            return files.files[0].path
        text = f"{format_bytes(files.size)} of {files.source} to {placement.worker}"
        await self._report.enter(InstanceState.DOWNLOADING, text)
        order = await fetch_input(self._input.instance_id, files, placement.worker)
        if self._stopping():
            return None
        fetching = workflow.start_activity_method(
            DownloadActivities.fetch_model,
            order,
            summary=f"download {text}",
            **options.on_queue(options.FETCH, download_queue(placement.worker)),
        )
        await workflow.wait_condition(lambda: fetching.done() or self._stopping() or bool(self._lost))
        if not fetching.done():
            fetching.cancel()
            if not self._lost:
                await asyncio.gather(fetching, return_exceptions=True)
            return None
        fetched: FetchResult = await fetching
        return fetched.model_path

    async def _serve(self, placement: Placement, path: str) -> ProcessEnd:
        """Stays with the main server until it ends, is too slow to load, or a stop is asked for."""
        spec = MainServerSpec(
            key=ProcessKey(instance_id=self._input.instance_id, incarnation=self._input.incarnation),
            deployment=self._input.spec.name,
            spec=self._input.spec,
            placement=placement,
            model_path=path,
            pooling=self._input.profile.pooling,
            patience=patience_after(self._input.frozen),
        )
        several = len(placement.workers) > 1
        self._server = server = Group(spec, self._lost) if several else MainServer(spec, self._lost)
        await self._report.enter(InstanceState.STARTING, placement.reason)
        deadline = options.load_deadline(self._input.files.size)
        try:
            await workflow.wait_condition(
                lambda: self._report.ready is not None or server.has_ended() or self._stopping(),
                timeout=deadline,
                timeout_summary="the main server must answer within this time",
            )
        except TimeoutError:
            return server.too_slow(deadline)
        if self._report.ready is not None and not server.has_ended():
            self._running_since = workflow.time()
            await self._stay_running(server, placement)
        if not server.has_ended():
            return ProcessEnd(cause="")
        return await server.end()

    async def _stay_running(self, server: MainServer | Group, placement: Placement) -> None:
        """Until the main server ends or a stop. Should it load again, as after its agent's restart, that is shown."""
        while not server.has_ended() and not self._stopping():
            shown = self._report.ready
            does = "answers" if shown is not None and shown.port else "loads again"
            others = f", with devices of {', '.join(placement.workers[1:])}" if placement.workers[1:] else ""
            await self._report.enter(InstanceState.RUNNING, f"{does} on {placement.worker}{others}")
            await workflow.wait_condition(
                lambda: server.has_ended() or self._stopping() or self._report.ready != shown  # noqa: B023
            )

    # --- 4 -----------------------------------------------------------------------------------------------------------

    async def _tear_down(self, end: ProcessEnd) -> None:
        """Withdraws the route, ends the processes, and gives the claims back of those that are confirmed gone."""
        if self._stopping():
            await self._report.enter(InstanceState.STOPPING, self._why_stopped())
        elif end.retryable:
            await self._report.enter(InstanceState.BACKOFF, end.cause)
        else:
            await self._report.enter(InstanceState.FAILED, end.cause)
        if self._server is not None and self._server.is_up:
            await self._report.flush()  # the route must be withdrawn before requests are waited for
            if self._running_since is not None and self._stopping() and not self._server.has_ended():
                await self._server.let_requests_end()
            await self._server.stop()
        if self._report.placement is not None or self._stopping():
            await self._report.flush()  # a row that still says `pending` would be woken in the place of another
            await workflow.execute_activity_method(
                PlacementActivities.release,
                ReleaseInput(
                    instance_id=self._input.instance_id,
                    incarnation=self._input.incarnation,
                    unconfirmed=self._server.may_be_left if self._server is not None else (),
                ),
                summary=f"release the claims of {self._input.instance_id}, wake who fits now",
                **options.TRANSACTION,
            )

    # --- 5 -----------------------------------------------------------------------------------------------------------

    async def _wait_for_next(self, end: ProcessEnd, seconds: float) -> None:
        """Until so many seconds have passed, or a stop. A failure that repeating cannot heal waits for ever."""
        if not end.retryable:
            await workflow.wait_condition(self._stopping)
            return
        try:
            await workflow.wait_condition(
                self._stopping, timeout=max(_LEAST_PAUSE, seconds), timeout_summary="pause before the next incarnation"
            )
        except TimeoutError:
            await self._report.flush()

    def _failures(self) -> int:
        ran = workflow.time() - self._running_since if self._running_since is not None else 0.0
        return failures_after(self._input.failures, ran)

    def _next_incarnation(self, end: ProcessEnd, failures: int) -> InstanceInput:
        avoided = avoided_after(self._input, self._report.placement, end, workflow.time())
        frozen = self._input.frozen + 1 if end.code == "frozen" else 0
        again = {"incarnation": self._input.incarnation + 1, "failures": failures, "frozen": frozen}
        return self._input.model_copy(update={**again, **avoided})

    def _why_stopped(self) -> str:
        return self._stop.reason if self._stop is not None else ""

    async def _finish(self) -> None:
        await self._report.enter(InstanceState.STOPPING, self._why_stopped())
        await self._report.enter(InstanceState.STOPPED, self._why_stopped())
        await self._report.flush()
        await self._report.remove()
        await self._report.tell_deployment(ended=True)
