"""One instance: exactly one placement and its processes, from the first try to the last byte given back.

1. place: claims in one transaction; without room it is pending until a `capacity` signal.
2. fetch: the model's files, on the host that was chosen.
3. serve: the main server, an activity that lasts as long as the process.
4. tear down: on a stop or on any exit: drain, kill, confirm, and only then release the claims.
5. A stop ends the workflow; an exit leads to the next incarnation, after a pause that grows.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeout

with workflow.unsafe.imports_passed_through():
    from activities.downloads import DownloadActivities
    from activities.placement import PlacementActivities
    from activities.ports import MainServerSpec, ProcessKey
    from activities.projection import ProjectionActivities
    from activities.servers import ServerActivities
    from activities.types import (
        DrainInput,
        FetchInput,
        FetchResult,
        MainReady,
        ProcessEnd,
        ReleaseInput,
        RemoveInstanceInput,
    )
    from stoker.domain.deployments import InstanceState, is_transition_allowed
    from stoker.domain.models import SourceKind
    from stoker.domain.naming import (
        CAPACITY_SIGNAL,
        READY_SIGNAL,
        deployment_workflow_id,
        download_queue,
        worker_queue,
    )
    from stoker.domain.placement.types import Placement, PlacementRequest, Rule, Unplaceable
    from stoker.domain.restarts import failures_after, restart_delay
    from stoker.domain.rollout import ReplicaPhase
    from stoker.domain.statuses import InstanceProjection
    from stoker.domain.units import format_bytes
    from workflows import options
    from workflows.cancellation import is_cancelled, uninterrupted
    from workflows.row_writer import RowWriter
    from workflows.types import InstanceChanged, InstanceInput, StopRequest
    from workflows.visibility import INSTANCE_PHASES, show_phase

_REPLICA_PHASES = {
    InstanceState.PLACING: ReplicaPhase.STARTING,
    InstanceState.PENDING: ReplicaPhase.PENDING,
    InstanceState.BACKOFF: ReplicaPhase.STARTING,
    InstanceState.RUNNING: ReplicaPhase.RUNNING,
    InstanceState.FAILED: ReplicaPhase.FAILED,
    InstanceState.STOPPING: ReplicaPhase.STOPPING,
    InstanceState.STOPPED: ReplicaPhase.STOPPING,
}


@workflow.defn
class Instance:
    """See the module's docstring for the numbered life; `InstanceState` names where it is."""

    @workflow.init
    def __init__(self, input: InstanceInput) -> None:
        self._input = input
        self._state = InstanceState.PLACING
        self._message = ""
        self._stop: StopRequest | None = None
        self._capacity = False
        self._ready: MainReady | None = None
        self._placement: Placement | None = None
        self._server: workflow.ActivityHandle[ProcessEnd] | None = None
        self._running_since: float | None = None
        self._lacks_room = False
        self._row = RowWriter[InstanceProjection](self._write_row)

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
        known = self._ready
        if ready.incarnation != self._input.incarnation or (known is None and not ready.port):
            return
        if known is not None and known.pid == ready.pid:  # told again: what was seen when it loaded holds
            seen = {"load_seconds": ready.load_seconds or known.load_seconds, "memory": known.memory or ready.memory}
            ready = ready.model_copy(update=seen)
        self._ready = ready

    @workflow.query
    def state(self) -> InstanceState:
        """Where the instance is in its life."""
        return self._state

    @workflow.run
    async def run(self, input: InstanceInput) -> None:
        """Lives one incarnation. Returns when it was stopped; continues-as-new when it is to be started again."""
        await uninterrupted(self._incarnation())

    async def _incarnation(self) -> None:
        end = await self._live()
        failures = self._failures()
        await self._tear_down(end)
        if not self._stopping():
            await self._wait_for_next(end, failures)
        if not self._stopping():
            workflow.continue_as_new(self._next_incarnation(failures))
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
            return _end_of(error, self._placement)

    async def _place(self) -> Placement | None:
        """A placement, however long it takes; None when a stop came first."""
        request = PlacementRequest(
            instance_id=self._input.instance_id,
            incarnation=self._input.incarnation,
            generation=self._input.generation,
            spec=self._input.spec,
            profile=self._input.profile,
            files=self._input.files,
            avoid=self._input.avoid,
        )
        show_phase(self._state, details=f"Looking for a place for `{self._input.spec.model}`.")
        while not self._stopping():
            self._capacity = False  # before the look: a signal during it must lead to another
            result = await workflow.execute_activity_method(
                PlacementActivities.place,
                request,
                summary=f"place {self._input.instance_id}, incarnation {self._input.incarnation}",
                **options.TRANSACTION,
            )
            if result.placement is not None:
                self._placement = result.placement
                return result.placement
            if result.unplaceable is not None:
                await self._wait_for_room(result.unplaceable)
                if not self._stopping() and workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(self._input)  # the same incarnation: it looks again at once
        return None

    async def _wait_for_room(self, why: Unplaceable) -> None:
        # The claiming transaction has written the row: `pending`, with these reasons.
        self._lacks_room = why.rejections[0].rule in (Rule.MEMORY, Rule.HOST_MEMORY)
        await self._enter(InstanceState.PENDING, why.summary, project=False, reason=why.rejections[0].rule)
        workflow.set_current_details(_pending_details(why))
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._capacity or self._stopping(),
                timeout=options.CAPACITY_RECHECK,
                timeout_summary="waits for room; looks again after this time even if no signal comes",
            )
        if not self._stopping():
            # Not projected: the row stays `pending` until the claiming transaction decides anew. A write of ours could
            # come after that decision, and hide a waiting instance from whoever frees room.
            await self._enter(InstanceState.PLACING, "looking for a place again", project=False)

    async def _fetch(self, placement: Placement) -> str | None:
        """The path to give to the engine; None when a stop came first."""
        files = self._input.files
        if files.source.kind is SourceKind.FILE:
            return files.files[0].path
        text = f"{format_bytes(files.size)} of {files.source} to {placement.worker}"
        await self._enter(InstanceState.DOWNLOADING, text)
        fetching = workflow.start_activity_method(
            DownloadActivities.fetch_model,
            FetchInput(instance_id=self._input.instance_id, files=files),
            summary=f"download {text}",
            **options.on_queue(options.FETCH, download_queue(placement.worker)),
        )
        await workflow.wait_condition(lambda: fetching.done() or self._stopping())
        if not fetching.done():
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            return None
        fetched: FetchResult = await fetching
        return fetched.model_path

    async def _serve(self, placement: Placement, path: str) -> ProcessEnd:
        """Stays with the main server until it ends, is too slow to load, or a stop is asked for."""
        self._server = workflow.start_activity_method(
            ServerActivities.serve_main,
            MainServerSpec(
                key=self._key(),
                deployment=self._input.spec.name,
                spec=self._input.spec,
                placement=placement,
                model_path=path,
                pooling=self._input.profile.pooling,
            ),
            summary=f"llama-server of {self._input.instance_id} on {placement.worker}",
            **options.on_queue(options.SERVE, worker_queue(placement.worker)),
        )
        server = self._server
        await self._enter(InstanceState.STARTING, placement.reason)
        deadline = options.load_deadline(self._input.files.size)
        try:
            await workflow.wait_condition(
                lambda: self._ready is not None or server.done() or self._stopping(),
                timeout=deadline,
                timeout_summary="the main server must answer within this time",
            )
        except TimeoutError:
            return ProcessEnd(cause=f"the main server did not answer within {deadline}")
        if self._ready is not None and not server.done():
            self._running_since = workflow.time()
            await self._stay_running(server, placement)
        if not server.done():
            return ProcessEnd(cause="")
        return await server

    async def _stay_running(self, server: workflow.ActivityHandle[ProcessEnd], placement: Placement) -> None:
        """Until the main server ends or a stop. Should it load again, as after its agent's restart, that is shown."""
        while not server.done() and not self._stopping():
            shown = self._ready
            does = "answers" if shown is not None and shown.port else "loads again"
            await self._enter(InstanceState.RUNNING, f"{does} on {placement.worker}")
            await workflow.wait_condition(
                lambda: server.done() or self._stopping() or self._ready != shown  # noqa: B023
            )

    # --- 4 -----------------------------------------------------------------------------------------------------------

    async def _tear_down(self, end: ProcessEnd) -> None:
        """Withdraws the route, ends the process, and gives the claims back once it is confirmed gone."""
        if self._stopping():
            await self._enter(InstanceState.STOPPING, self._why_stopped())
        elif end.retryable:
            await self._enter(InstanceState.BACKOFF, end.cause)
        else:
            await self._enter(InstanceState.FAILED, end.cause)
        if self._server is not None and self._placement is not None:
            await self._end_server(self._server, self._placement)
        if self._placement is not None or self._stopping():
            await self._row.flush()  # a row that still says `pending` would be woken in the place of another
            await workflow.execute_activity_method(
                PlacementActivities.release,
                ReleaseInput(instance_id=self._input.instance_id, incarnation=self._input.incarnation),
                summary=f"release the claims of {self._input.instance_id}, wake who fits now",
                **options.TRANSACTION,
            )

    async def _end_server(self, server: workflow.ActivityHandle[ProcessEnd], placement: Placement) -> None:
        queue = worker_queue(placement.worker)
        if server.done():
            return
        await self._row.flush()  # the route must be withdrawn before requests are waited for
        if self._running_since is not None and self._stopping():
            try:
                await workflow.execute_activity_method(
                    ServerActivities.drain_main,
                    DrainInput(
                        instance_id=self._input.instance_id,
                        incarnation=self._input.incarnation,
                        settle_seconds=options.DRAIN_SETTLE_SECONDS,
                        timeout_seconds=options.DRAIN_TIMEOUT_SECONDS,
                    ),
                    summary="let running requests end",
                    **options.on_queue(options.HOST_CALL, queue),
                )
            except ActivityError as error:
                workflow.logger.warning("drain failed, stopping anyway: %s", error.cause)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    # --- 5 -----------------------------------------------------------------------------------------------------------

    async def _wait_for_next(self, end: ProcessEnd, failures: int) -> None:
        """Until it is time for the next incarnation, or a stop. A failure that repeating cannot heal waits for ever."""
        if not end.retryable:
            await workflow.wait_condition(self._stopping)
            return
        delay = timedelta(seconds=restart_delay(failures))
        try:
            await workflow.wait_condition(
                self._stopping, timeout=delay, timeout_summary="pause before the next incarnation"
            )
        except TimeoutError:
            await self._row.flush()

    def _failures(self) -> int:
        ran = workflow.time() - self._running_since if self._running_since is not None else 0.0
        return failures_after(self._input.failures, ran)

    def _next_incarnation(self, failures: int) -> InstanceInput:
        avoid = (self._placement.worker,) if self._placement is not None else ()
        return self._input.model_copy(
            update={"incarnation": self._input.incarnation + 1, "failures": failures, "avoid": avoid}
        )

    def _why_stopped(self) -> str:
        return self._stop.reason if self._stop is not None else ""

    async def _finish(self) -> None:
        await self._enter(InstanceState.STOPPING, self._why_stopped())
        await self._enter(InstanceState.STOPPED, self._why_stopped())
        await self._row.flush()
        await workflow.execute_activity_method(
            ProjectionActivities.remove_instance,
            RemoveInstanceInput(instance_id=self._input.instance_id),
            summary=f"remove the row of {self._input.instance_id}",
            **options.TRANSACTION,
        )
        await self._tell_deployment(ended=True)

    # --- what others see ---------------------------------------------------------------------------------------------

    def _key(self) -> ProcessKey:
        return ProcessKey(instance_id=self._input.instance_id, incarnation=self._input.incarnation)

    async def _enter(self, state: InstanceState, message: str, *, project: bool = True, reason: str = "") -> None:
        """Moves to `state` and shows it everywhere: row, search attributes, current details, deployment."""
        if not is_transition_allowed(self._state, state):
            raise ApplicationError(f"{self._state} -> {state} is no legal transition", non_retryable=True)
        changed = state is not self._state
        self._state, self._message = state, message
        worker = self._placement.worker if self._placement is not None else ""
        show_phase(state, worker=worker, reason=reason, details=_details(self._input, state, message, self._placement))
        if project:
            self._row.want(self._projection())
        if changed and state in _REPLICA_PHASES:
            await self._tell_deployment(ended=False)

    def _projection(self) -> InstanceProjection:
        ready = self._ready if self._state is InstanceState.RUNNING else None
        loads_again = ready is not None and not ready.port
        return InstanceProjection(
            instance_id=self._input.instance_id,
            deployment=self._input.spec.name,
            generation=self._input.generation,
            incarnation=self._input.incarnation,
            state=InstanceState.STARTING if loads_again else self._state,
            message=self._message,
            port=ready.port if ready else 0,
            pid=ready.pid if ready else 0,
            load_seconds=ready.load_seconds if ready else 0.0,
            memory=ready.memory if ready else None,
        )

    async def _write_row(self, row: InstanceProjection) -> None:
        await workflow.execute_activity_method(
            ProjectionActivities.project_instance, row, summary=f"show {row.state}", **options.TRANSACTION
        )

    async def _tell_deployment(self, *, ended: bool) -> None:
        phase = _REPLICA_PHASES.get(self._state, ReplicaPhase.STARTING)
        if phase is ReplicaPhase.PENDING and not self._lacks_room:
            phase = ReplicaPhase.STARTING  # nobody may take it: an old instance that made room would die for nothing
        deployment = workflow.get_external_workflow_handle(deployment_workflow_id(self._input.spec.name))
        changed = InstanceChanged(
            instance_id=self._input.instance_id, generation=self._input.generation, phase=phase, ended=ended
        )
        try:
            await deployment.signal("instance_changed", changed)
        except ApplicationError as error:  # the deployment is gone: there is nobody to tell
            workflow.logger.warning("deployment not told of %s: %s", phase, error)


def _end_of(error: ActivityError, placement: Placement | None) -> ProcessEnd:
    """What a failed activity means for the instance."""
    cause = error.cause
    where = placement.worker if placement is not None else "the control plane"
    if isinstance(cause, ActivityTimeout) and cause.type == TimeoutType.SCHEDULE_TO_START:
        return ProcessEnd(cause=f"{where} does not answer: its agent takes no work")
    if isinstance(cause, ApplicationError):
        return ProcessEnd(cause=cause.message, retryable=not cause.non_retryable)
    return ProcessEnd(cause=str(cause or error))


def _pending_details(why: Unplaceable) -> str:
    lines = [f"**Pending** - {why.summary}", ""]
    lines += [f"- {r.worker}{'/' + r.device if r.device else ''}: {r.message}" for r in why.rejections[:20]]
    if why.suggestions:
        lines += ["", "It would fit now if you " + ", or ".join(why.suggestions) + "."]
    return "\n".join(lines)


def _details(input: InstanceInput, state: InstanceState, message: str, placement: Placement | None) -> str:
    lines = [
        f"**{INSTANCE_PHASES[state]}** - {message}",
        "",
        f"Model `{input.spec.model}`, incarnation {input.incarnation}",
    ]
    if placement is not None:
        held = ", ".join(f"{share.device}: {format_bytes(share.claim)}" for share in placement.shares)
        lines += ["", f"On `{placement.worker}` ({held})"]
    return "\n".join(lines)
