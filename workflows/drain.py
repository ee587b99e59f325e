"""A drain: moves the instances that use a worker elsewhere, one by one, until nothing is left or it is called off.

1. Look at what is there. Nothing: done. No longer to be emptied: called off.
2. The next instance has its turn: its deployment is asked to replace it, by the pure `plan()`, which starts the new one
   before it stops the old one where there is room.
3. It is waited for. After `move_seconds`, sooner where its successor finds no place, the next has its turn, and this
   one stays for now, with the reason.
4. When each had its turn, those that stay are asked for again, every few minutes.
5. Called off: those that were asked for and not told to stop yet may stay.

The worker's row says whether it is to be emptied, and nothing else does: whoever calls a drain off changes the row, and
the signal only saves the time until the next look. So of an administrator who drains and one who uncordons in the same
moment the one wins whom the row follows. Cancelled in Temporal, it changes the row itself: the worker stays cordoned.
Terminated, it leaves the row as it is; to drain the worker again goes on with it, to uncordon it ends it.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Literal, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.drains import DrainActivities
    from activities.types import LookAtWorkerInput, LookAtWorkerResult, SeenInstance, StopDrainingInput
    from stoker.domain.base import DeploymentName, InstanceId
    from stoker.domain.deployments import InstanceState
    from stoker.domain.naming import deployment_workflow_id
    from workflows import options
    from workflows.cancellation import is_cancelled, uninterrupted
    from workflows.deployment import Deployment
    from workflows.types import (
        DrainState,
        DrainWorkerInput,
        DrainWorkerResult,
        InstanceGone,
        KeepRequest,
        MovedInstance,
        ReplaceRequest,
        StayingInstance,
    )
    from workflows.visibility import show_phase

_MOST_REMEMBERED = 100  # of those that were moved: what is handed from run to run stays small


@workflow.defn
class Drain:
    """See the module's docstring. Start it with the signal `begin`: a drain that is about to end then goes on."""

    @workflow.init
    def __init__(self, input: DrainWorkerInput) -> None:
        self._worker, self._move_seconds = input.worker, input.move_seconds
        self._state = input.state
        self._begun = self._news = False
        self._gone: set[InstanceId] = set()  # by what their deployments say

    @workflow.signal
    def begin(self) -> None:
        """The worker is to be emptied, whatever was said before."""
        self._begun = self._news = True

    @workflow.signal
    def call_off(self) -> None:
        """What is on the worker may stay there, if its row says so."""
        self._news = True

    @workflow.signal
    def instance_gone(self, gone: InstanceGone) -> None:
        """A deployment has an instance no more that it was asked to replace."""
        if gone.instance_id not in self._gone:
            self._gone.add(gone.instance_id)
            self._news = True

    @workflow.run
    async def run(self, input: DrainWorkerInput) -> DrainWorkerResult:
        """Until nothing is left or it is called off; to cancel it in Temporal calls it off too."""
        return await uninterrupted(self._drain())

    async def _drain(self) -> DrainWorkerResult:
        while True:
            self._begun = self._news = False  # before the look: news during it must lead to another
            look = await self._look()
            await self._note_departures(look)
            if not look.there or self._ends(look):
                if is_cancelled():
                    await self._leave_cordoned()
                await self._keep_those_that_stay()
                if not self._begun:
                    return self._result(look)
                if is_cancelled():
                    await self._go_on_as_new()  # a run that was cancelled stays cancelled
                continue  # called off, and wanted again meanwhile
            had_their_turn = {staying.instance_id for staying in self._state.staying}
            waiting = [seen for seen in look.there if seen.instance_id not in had_their_turn]
            if waiting:
                await self._move(waiting[0])
            else:
                await self._ask_again(look)
            if workflow.info().is_continue_as_new_suggested() and not is_cancelled():
                await self._go_on_as_new()

    async def _go_on_as_new(self) -> NoReturn:
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(
            DrainWorkerInput(worker=self._worker, move_seconds=self._move_seconds, state=self._state)
        )

    # --- the turns ---------------------------------------------------------------------------------------------------

    async def _move(self, seen: SeenInstance) -> None:
        """Gives one instance its turn: in the end it has left, stays with a reason, or the drain is called off."""
        began = workflow.time()
        before = (await self._look(seen.deployment)).youngest
        if not await self._ask(seen.instance_id, seen.deployment):
            return self._stays(seen, "its deployment's workflow does not run: apply the deployment again")
        while True:
            self._news = False  # before the look: news during it must lead to another
            look = await self._look(seen.deployment)
            successor = look.youngest if _is_new(look.youngest, before) else None
            if seen.instance_id not in {one.instance_id for one in look.there}:
                return await self._has_left(seen.instance_id, seen.deployment, _whereabouts(successor))
            if self._ends(look):
                return await self._keep(seen.instance_id, seen.deployment)
            if seen.instance_id in self._gone:
                return self._stays(seen, "its deployment does not know it")
            within = self._patience(successor)
            left = timedelta(seconds=began - workflow.time()) + within
            if left <= timedelta(0):
                return self._stays(seen, f"it was not replaced within {within}: {_progress_of(successor)}")
            self._show(look, f"{seen.instance_id} moves: {_progress_of(successor)}")
            await self._wait(min(left, options.DRAIN_LOOK), f"waits for {seen.instance_id} to leave")

    async def _ask_again(self, look: LookAtWorkerResult) -> None:
        for staying in self._state.staying:
            await self._ask(staying.instance_id, staying.deployment)
        self._show(look, "each had its turn; those that stay are asked for again and again")
        await self._wait(options.DRAIN_RETRY, "waits before it asks again for those that stay")

    async def _keep_those_that_stay(self) -> None:
        for staying in self._state.staying:
            await self._keep(staying.instance_id, staying.deployment)
        self._state = self._state.model_copy(update={"staying": ()})

    def _result(self, look: LookAtWorkerResult) -> DrainWorkerResult:
        called_off = bool(look.there)
        self._show(look, "it was called off" if called_off else "nothing is left", ended=True)
        return DrainWorkerResult(moved=self._state.moved, called_off=called_off)

    def _patience(self, successor: SeenInstance | None) -> timedelta:
        """How long an instance may take. For a successor without a place room was made, unless room would not help."""
        whole = timedelta(seconds=self._move_seconds)
        is_stuck = successor is not None and successor.state is InstanceState.PENDING
        return min(whole, options.DRAIN_PENDING) if is_stuck else whole

    # --- parts -------------------------------------------------------------------------------------------------------

    def _ends(self, look: LookAtWorkerResult) -> bool:
        return is_cancelled() or not look.draining

    async def _leave_cordoned(self) -> None:
        """Nobody empties the worker any more: its row says so, and that it still gets nothing new."""
        if workflow.patched("a-cancelled-drain-changes-the-row"):
            await workflow.execute_activity_method(
                DrainActivities.stop_draining,
                StopDrainingInput(worker=self._worker),
                summary=f"{self._worker} stays cordoned",
                **options.TRANSACTION,
            )

    async def _look(self, deployment: DeploymentName | Literal[""] = "") -> LookAtWorkerResult:
        return await workflow.execute_activity_method(
            DrainActivities.look_at_worker,
            LookAtWorkerInput(worker=self._worker, deployment=deployment),
            summary=f"what is on {self._worker}",
            **options.TRANSACTION,
        )

    async def _wait(self, seconds: timedelta, why: str) -> None:
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._news or is_cancelled(), timeout=seconds, timeout_summary=why)

    async def _ask(self, instance_id: InstanceId, deployment: DeploymentName) -> bool:
        """Asks the deployment to replace it; False when nobody is there to be asked."""
        request = ReplaceRequest(
            instance_id=instance_id, reason=f"{self._worker} is being drained", tell=workflow.info().workflow_id
        )
        handle = workflow.get_external_workflow_handle_for(Deployment.run, deployment_workflow_id(deployment))
        try:
            await handle.signal(Deployment.replace, request)
        except ApplicationError:
            return False
        return True

    async def _keep(self, instance_id: InstanceId, deployment: DeploymentName) -> None:
        handle = workflow.get_external_workflow_handle_for(Deployment.run, deployment_workflow_id(deployment))
        with suppress(ApplicationError):  # nobody is there who could stop it
            await handle.signal(Deployment.keep, KeepRequest(instance_id=instance_id))

    async def _has_left(self, instance_id: InstanceId, deployment: DeploymentName, to: str) -> None:
        if instance_id not in self._gone:
            # If it ended by itself and has its next place elsewhere, it need not be replaced there.
            await self._keep(instance_id, deployment)
        moved = MovedInstance(instance_id=instance_id, deployment=deployment, to=to)
        self._state = DrainState(
            moved=(*self._state.moved, moved)[-_MOST_REMEMBERED:],
            staying=tuple(one for one in self._state.staying if one.instance_id != instance_id),
        )

    async def _note_departures(self, look: LookAtWorkerResult) -> None:
        """Of those that stayed when they had their turn."""
        there = {seen.instance_id for seen in look.there}
        for staying in self._state.staying:
            if staying.instance_id not in there:
                await self._has_left(staying.instance_id, staying.deployment, "")

    def _stays(self, seen: SeenInstance, reason: str) -> None:
        staying = StayingInstance(instance_id=seen.instance_id, deployment=seen.deployment, reason=reason)
        self._state = self._state.model_copy(update={"staying": (*self._state.staying, staying)})

    def _show(self, look: LookAtWorkerResult, now: str, *, ended: bool = False) -> None:
        reasons = {staying.instance_id: f"stays for now: {staying.reason}" for staying in self._state.staying}
        lines = [f"**{len(look.there)} left** on `{self._worker}` - {now}", ""]
        lines += [f"- `{one.instance_id}` ({one.state}) {reasons.get(one.instance_id, '')}" for one in look.there]
        if self._state.moved:
            lines += ["", "Moved:", ""]
            lines += [f"- `{one.instance_id}`{' to ' if one.to else ''}{one.to}" for one in self._state.moved]
        phase = "draining" if not ended else "called off" if look.there else "drained"
        show_phase(phase, worker=self._worker, details="\n".join(lines))


def _is_new(youngest: SeenInstance | None, before: SeenInstance | None) -> bool:
    """Whether it takes an instance's place: it came since, or was on its way to run already."""
    if youngest is None or before is None:
        return True
    return youngest.instance_id != before.instance_id or before.state is not InstanceState.RUNNING


def _progress_of(successor: SeenInstance | None) -> str:
    if successor is None:
        return "its deployment has not started another yet"
    return f"{successor.instance_id} is {successor.state}: {successor.message}"


def _whereabouts(successor: SeenInstance | None) -> str:
    if successor is None:
        return ""
    if not successor.workers:
        return f"`{successor.instance_id}`, which has no place yet: {successor.message}"
    return f"`{successor.instance_id}` on {', '.join(successor.workers)}"
