"""One deployment: an entity that keeps as many instances alive as are wanted, of the generation that is wanted.

Handlers only change the state; one level-triggered `_reconcile` starts and stops instances, by the pure `plan()`.
"""

import asyncio
from functools import partial
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.rollout import Replica, ReplicaPhase, plan
    from stoker.domain.scaling import wanted_replicas
    from workflows import deployment_rows, instance_calls, options
    from workflows.cancellation import is_cancelled, uninterrupted
    from workflows.file_inspection import refusal_of
    from workflows.model_inspection import check_estimate, inspect_model
    from workflows.replicas import replaced, to_keep, to_replace, with_news, with_phase, without
    from workflows.scaled_count import is_row_behind, scaled_under, to_scale, to_wake
    from workflows.trials import (
        after_change,
        failure_of,
        is_wanted_already,
        known_model,
        rolled_back,
        timed,
        trial_ends,
        with_room_made,
    )
    from workflows.types import (
        ApplyInput,
        ApplyResult,
        DeleteInput,
        DeploymentInput,
        InstanceChanged,
        KeepRequest,
        ReplaceRequest,
        ScaleRequest,
        WakeRequest,
        Wanted,
    )
    from workflows.visibility import show_phase

_NOT_SHOWN = -1  # no count at all: whatever is wanted is to be shown

_LEAST_PAUSE = 0.001
"""Seconds until a trial's end at least: where rounding says that it is over, and then that it is not, time passes."""


@workflow.defn
class Deployment:
    """Started by its first `apply`; ends when it was deleted and its last instance is gone."""

    @workflow.init
    def __init__(self, input: DeploymentInput) -> None:
        self._name = input.name
        self._state = input.state
        self._dirty = True
        self._sweep_at = workflow.time() + options.SWEEP_EVERY.total_seconds()
        self._applying = asyncio.Lock()
        self._scaled_shown: int | None = None  # in the row, as far as this run knows
        self._judges_later = False  # whether a trial's time may end unseen, because a change is looked at

    # --- handlers ----------------------------------------------------------------------------------------------------

    @workflow.update
    async def apply(self, input: ApplyInput) -> ApplyResult:
        """Makes `input.spec` what is wanted. Answers once the row shows it; refuses a model that cannot be read."""
        async with self._applying:
            self._check_open()  # both may have changed while this waited for its turn
            self._check_generation(input.expected_generation)
            old, spec, known = self._state.wanted, input.spec, input.known
            files = known.files if known is not None and workflow.patched("files-are-asked-for") else None
            if is_wanted_already(self._state, input, files):
                return ApplyResult(generation=self._state.generation)
            try:
                wanted = known_model(self._state, input, known_first=files is not None) or await inspect_model(spec)
                await check_estimate(wanted)
            except (ActivityError, ApplicationError) as error:
                raise refusal_of(error) from error
            scaled = scaled_under(spec, self._state)
            together = self._state.trial is None or workflow.patched("scaling-changes-together")
            self._state = after_change(self._state, wanted, input, files=files, together=together)
            self._change(scaled=scaled)
            if self._state.trial is not None and not workflow.patched("roll-back"):
                self._change(trial=None)
            await self._project()
            self._dirty = True
            return ApplyResult(generation=self._state.generation, created=old is None)

    @apply.validator
    def _check_apply(self, input: ApplyInput) -> None:
        self._check_open()
        self._check_generation(input.expected_generation)

    @workflow.update
    async def delete(self, input: DeleteInput) -> None:
        """Begins the end: instances stop, claims are released, then the rows go."""
        await self._begin_end(input.expected_generation)

    async def _begin_end(self, expected: int | None = None) -> None:
        async with self._applying:
            if self._state.deleting:
                return  # a second projection would come after the row was removed, and bring it back
            if expected not in (None, self._state.generation) and workflow.patched("delete-looks-again"):
                self._check_generation(expected)  # it may have changed while this waited for its turn
            await self._project(deleting=True)
            self._change(deleting=True)
            self._dirty = True
            await self._hurry()

    @delete.validator
    def _check_delete(self, input: DeleteInput) -> None:
        self._check_generation(input.expected_generation)

    @workflow.signal
    def instance_changed(self, change: InstanceChanged) -> None:
        """An instance moved on, or is over."""
        if change.ended:
            self._forget(change.instance_id)
        else:
            self._state, self._dirty = with_news(self._state, change), True

    @workflow.signal
    def replace(self, request: ReplaceRequest) -> None:
        """Another instance is to take this one's place, of the same generation."""
        self._state, self._dirty = to_replace(self._state, request), True

    @workflow.signal
    def keep(self, request: KeepRequest) -> None:
        """It need not be replaced any more."""
        self._state, self._dirty = to_keep(self._state, request.instance_id), True

    @workflow.signal
    def scale(self, request: ScaleRequest) -> None:
        """Demand asks for more replicas, or for fewer. A row that shows another count than there is is written anew."""
        if is_row_behind(self._state, request) and workflow.patched("show-scaled-again"):
            self._scaled_shown = _NOT_SHOWN
        self._state, self._dirty = to_scale(self._state, request), True

    @workflow.signal
    def wake(self, _: WakeRequest) -> None:
        """Somebody asks the model."""
        self._state, self._dirty = to_wake(self._state), True

    def _check_open(self) -> None:
        if self._state.deleting:
            raise ApplicationError(f"{self._name} is being deleted", type="deployment_deleting")

    def _check_generation(self, expected: int | None) -> None:
        if expected is not None and expected != self._state.generation:
            raise ApplicationError(
                f"{self._name} is at generation {self._state.generation}, not {expected}: read it again",
                type="generation_conflict",
            )

    # --- the loop ----------------------------------------------------------------------------------------------------

    @workflow.run
    async def run(self, input: DeploymentInput) -> None:
        """Reconciles until deleted. Cancelled in Temporal, it deletes itself in good order."""
        await uninterrupted(self._live(input))

    async def _live(self, input: DeploymentInput) -> None:
        if input.recovered:
            await self._sweep()
        while True:
            await self._wait_for_change()
            if self._state.wanted is None:
                await workflow.wait_condition(workflow.all_handlers_finished)
                if self._state.wanted is None:
                    return  # the very first apply was refused, or never came: nothing was made, nothing stays
            await self._roll_back_if_failed()
            await self._reconcile(self._state.wanted, self._state.instances_generation)
            await self._tell_of_replaced()
            await self._bring_row_forward()
            if self._state.deleting and not self._state.replicas:
                await deployment_rows.remove_deployment(self._name)
                break
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(DeploymentInput(name=self._name, state=self._state))
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _wait_for_change(self) -> None:
        self._state = timed(self._state, workflow.time())
        wakes_at, for_sweep = self._wakes_at()
        try:
            await workflow.wait_condition(
                self._has_work,
                timeout=max(0.0, wakes_at - workflow.time()),
                timeout_summary="looks for instances that ended without a word",
            )
        except TimeoutError:
            if for_sweep:
                self._sweep_at = 0.0
        self._dirty = self._judges_later = False
        if is_cancelled() and not self._state.deleting:
            await self._begin_end()
        if workflow.time() >= self._sweep_at:  # by its own clock: instances that keep reporting must not put it off
            self._sweep_at = workflow.time() + options.SWEEP_EVERY.total_seconds()
            await self._sweep()

    def _wakes_at(self) -> tuple[float, bool]:
        """When the loop goes on even if nothing happens, in Unix seconds, and whether to sweep then."""
        ends = trial_ends(self._state)
        if ends >= self._sweep_at:
            return self._sweep_at, True
        if not workflow.patched("trial-ends-apart"):
            return ends, True
        if self._state.deleting or self._applying.locked():  # nobody would act on its end: no pause, again and again
            self._judges_later = not self._state.deleting
            return self._sweep_at, True
        return max(ends, workflow.time() + _LEAST_PAUSE), False

    def _has_work(self) -> bool:
        return (
            self._dirty
            or self._has_failed()
            or (self._judges_later and not self._applying.locked())
            or (self._state.wanted is None and workflow.all_handlers_finished())
            or (is_cancelled() and not self._state.deleting)
            or self._is_row_behind()
            or workflow.info().is_continue_as_new_suggested()
        )

    def _has_failed(self) -> bool:
        """Whether the generation on trial is to be given up now. While a change is looked at, that may replace it."""
        return not self._applying.locked() and bool(failure_of(self._state, workflow.time()))

    async def _roll_back_if_failed(self) -> None:
        if not self._has_failed():
            return
        async with self._applying:
            trial, reason = self._state.trial, failure_of(self._state, workflow.time())
            if trial is not None and reason:
                self._state = rolled_back(self._state, trial, reason)
                await self._project()

    async def _reconcile(self, wanted: Wanted, generation: int) -> None:
        """`generation`: the one that `wanted` makes instances of; an apply may change both while this waits."""
        count = 0 if self._state.deleting else wanted_replicas(wanted.spec, self._state.scaled)
        step = plan(count, generation, self._state.replicas)
        if step.makes_room and self._state.trial is not None and workflow.patched("room-was-made"):
            self._state = with_room_made(self._state)
        if max(len(step.stop), step.start) > 1 and workflow.patched("instances-together"):
            await instance_calls.few_at_a_time([partial(self._stop, instance_id) for instance_id in step.stop])
            await instance_calls.few_at_a_time([partial(self._start, wanted, generation)] * step.start)
        else:
            for instance_id in step.stop:
                await self._stop(instance_id)
            for _ in range(step.start):
                await self._start(wanted, generation)
        self._show(wanted.spec, count)

    async def _start(self, wanted: Wanted, generation: int) -> None:
        replica = Replica(instance_id=instance_calls.new_instance_id(self._name), generation=generation)
        self._change(replicas=(*self._state.replicas, replica))
        try:
            instance = await instance_calls.start(self._name, replica, wanted)
            instance.add_done_callback(self._on_closed)
        except WorkflowAlreadyStartedError:
            self._forget(replica.instance_id)

    def _on_closed(self, instance: asyncio.Future[None]) -> None:
        """One that was terminated did not say so itself: the sweep is due now."""
        if instance.cancelled() or instance.exception() is not None:
            self._sweep_at, self._dirty = 0.0, True

    async def _stop(self, instance_id: str) -> None:
        self._set_phase(instance_id, ReplicaPhase.STOPPING)
        request = instance_calls.stop_request(self._state, instance_id)
        if not await instance_calls.stop(instance_id, request):  # its workflow is over: nobody will say so any more
            await deployment_rows.release(instance_id)
            await deployment_rows.remove_instance(instance_id)
            self._forget(instance_id)

    async def _hurry(self) -> None:
        """Those that stop already, and wait for their requests, have no more time than the others from here on."""
        stopping = [one.instance_id for one in self._state.replicas if one.phase is ReplicaPhase.STOPPING]
        if stopping and workflow.patched("deletion-hurries"):
            for instance_id in stopping:
                await instance_calls.stop(instance_id, instance_calls.DELETED)  # or it is over by itself

    async def _tell_of_replaced(self) -> None:
        """Tells whoever asked for an instance to be replaced that it is gone, once."""
        for request in replaced(self._state):
            self._state = to_keep(self._state, request.instance_id)
            await instance_calls.tell_gone(request)

    async def _sweep(self) -> None:
        if not self._state.replicas:
            return
        for instance_id in await deployment_rows.find_ended([r.instance_id for r in self._state.replicas]):
            await deployment_rows.remove_instance(instance_id)
            self._forget(instance_id)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _is_row_behind(self) -> bool:
        """Whether the row is to be told what demand asks for, or that a trial is over; an apply or a delete under way
        does so itself."""
        trial_over = self._state.trial_shown and self._state.trial is None
        behind = trial_over or self._state.scaled != self._scaled_shown
        return behind and not self._state.deleting and not self._applying.locked()

    async def _bring_row_forward(self) -> None:
        if self._is_row_behind():
            async with self._applying:
                await self._project()

    async def _project(self, *, deleting: bool = False) -> None:
        if self._state.wanted is not None:
            with_trial = self._state.trial is not None and workflow.patched("trial-in-row")
            projection = deployment_rows.projection_of(
                self._state, self._state.wanted, deleting=deleting, with_trial=with_trial
            )
            await deployment_rows.show_deployment(projection)
            self._scaled_shown = projection.scaled
            self._change(trial_shown=projection.trial is not None)

    def _show(self, spec: DeploymentSpec, wanted: int) -> None:
        running = sum(replica.phase is ReplicaPhase.RUNNING for replica in self._state.replicas)
        phase = "deleting" if self._state.deleting else "running" if running >= wanted else "progressing"
        lines = [f"**{running} of {wanted}** running - `{spec.model}`, generation {self._state.generation}", ""]
        lines += [
            f"- `{r.instance_id}` {r.phase}{', to be replaced' * r.leaving} (generation {r.generation})"
            for r in self._state.replicas
        ]
        show_phase(phase, details="\n".join(lines))

    def _change(self, **fields: Any) -> None:
        self._state = self._state.model_copy(update=fields)

    def _set_phase(self, instance_id: str, phase: ReplicaPhase) -> None:
        self._state, self._dirty = with_phase(self._state, instance_id, phase), True

    def _forget(self, instance_id: str) -> None:
        self._state, self._dirty = without(self._state, instance_id), True
