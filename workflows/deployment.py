"""One deployment: an entity that keeps as many instances alive as are wanted, of the generation that is wanted.

Handlers only change the state; one level-triggered `_reconcile` starts and stops instances, by the pure `plan()`.
"""

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.estimation import EstimationActivities
    from activities.placement import PlacementActivities
    from activities.projection import ProjectionActivities
    from activities.types import (
        EstimateInput,
        InspectInput,
        ReleaseInput,
        RemoveDeploymentInput,
        RemoveInstanceInput,
        SweepInput,
    )
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.models import SourceKind
    from stoker.domain.naming import instance_workflow_id
    from stoker.domain.rollout import Replica, ReplicaPhase, plan
    from stoker.domain.statuses import DeploymentProjection
    from workflows import options
    from workflows.cancellation import is_cancelled, uninterrupted
    from workflows.file_inspection import inspect_on_workers, refusal_of
    from workflows.instance import Instance
    from workflows.types import (
        ApplyInput,
        ApplyResult,
        DeleteInput,
        DeploymentInput,
        InstanceChanged,
        InstanceInput,
        StopRequest,
        Wanted,
    )
    from workflows.visibility import DEPLOYMENT, PHASE, show_phase

_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words by accident


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

    # --- handlers ----------------------------------------------------------------------------------------------------

    @workflow.update
    async def apply(self, input: ApplyInput) -> ApplyResult:
        """Makes `input.spec` what is wanted. Answers once the row shows it; refuses a model that cannot be read."""
        async with self._applying:
            self._check_open()  # both may have changed while this waited for its turn
            self._check_generation(input.expected_generation)
            old, spec = self._state.wanted, input.spec
            if old is not None and old.spec == spec:
                return ApplyResult(generation=self._state.generation)
            try:
                same_model = old is not None and old.spec.model == spec.model
                wanted = old.model_copy(update={"spec": spec}) if old and same_model else await self._inspect(spec)
                await self._estimate(wanted)
            except (ActivityError, ApplicationError) as error:
                raise refusal_of(error) from error
            generation = self._state.generation + 1
            rolls = old is None or not old.spec.same_instances(spec)
            instances_generation = generation if rolls else self._state.instances_generation
            self._change(wanted=wanted, generation=generation, instances_generation=instances_generation)
            await self._project(wanted)
            self._dirty = True
            return ApplyResult(generation=generation, created=old is None)

    @apply.validator
    def _check_apply(self, input: ApplyInput) -> None:
        self._check_open()
        self._check_generation(input.expected_generation)

    @workflow.update
    async def delete(self, input: DeleteInput) -> None:
        """Begins the end: instances stop, claims are released, then the rows go."""
        await self._begin_end()

    async def _begin_end(self) -> None:
        async with self._applying:
            if self._state.deleting:
                return  # a second projection would come after the row was removed, and bring it back
            if self._state.wanted is not None:
                await self._project(self._state.wanted, deleting=True)
            self._change(deleting=True)
            self._dirty = True

    @delete.validator
    def _check_delete(self, input: DeleteInput) -> None:
        self._check_generation(input.expected_generation)

    @workflow.signal
    def instance_changed(self, change: InstanceChanged) -> None:
        """An instance moved on, or is over."""
        if change.ended:
            self._forget(change.instance_id)
        else:
            self._set_phase(change.instance_id, change.phase)

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
            await self._reconcile(self._state.wanted, self._state.instances_generation)
            if self._state.deleting and not self._state.replicas:
                await workflow.execute_activity_method(
                    ProjectionActivities.remove_deployment,
                    RemoveDeploymentInput(name=self._name),
                    summary=f"remove the rows of {self._name}",
                    **options.TRANSACTION,
                )
                break
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(DeploymentInput(name=self._name, state=self._state))
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _wait_for_change(self) -> None:
        try:
            await workflow.wait_condition(
                self._has_work,
                timeout=max(0.0, self._sweep_at - workflow.time()),
                timeout_summary="looks for instances that ended without a word",
            )
        except TimeoutError:
            self._sweep_at = 0.0
        self._dirty = False
        if is_cancelled() and not self._state.deleting:
            await self._begin_end()
        if workflow.time() >= self._sweep_at:  # by its own clock: instances that keep reporting must not put it off
            self._sweep_at = workflow.time() + options.SWEEP_EVERY.total_seconds()
            await self._sweep()

    def _has_work(self) -> bool:
        return (
            self._dirty
            or (self._state.wanted is None and workflow.all_handlers_finished())
            or (is_cancelled() and not self._state.deleting)
            or workflow.info().is_continue_as_new_suggested()
        )

    async def _reconcile(self, wanted: Wanted, generation: int) -> None:
        """`generation`: the one that `wanted` makes instances of; an apply may change both while this waits."""
        count = 0 if self._state.deleting else wanted.spec.replicas
        step = plan(count, generation, self._state.replicas)
        for instance_id in step.stop:
            await self._stop(instance_id)
        for _ in range(step.start):
            await self._start(wanted, generation)
        self._show(wanted.spec, count)

    async def _start(self, wanted: Wanted, generation: int) -> None:
        replica = Replica(instance_id=self._new_id(), generation=generation)
        self._change(replicas=(*self._state.replicas, replica))
        try:
            instance = await workflow.start_child_workflow(
                Instance.run,
                InstanceInput(
                    instance_id=replica.instance_id,
                    generation=replica.generation,
                    spec=wanted.spec,
                    profile=wanted.profile,
                    files=wanted.files,
                ),
                id=instance_workflow_id(replica.instance_id),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                static_summary=f"{wanted.spec.model} for {self._name}",
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(DEPLOYMENT, self._name), SearchAttributePair(PHASE, "placing")]
                ),
            )
            instance.add_done_callback(self._on_closed)
        except WorkflowAlreadyStartedError:
            self._forget(replica.instance_id)

    def _on_closed(self, instance: asyncio.Future[None]) -> None:
        """One that was terminated did not say so itself: the sweep is due now."""
        if instance.cancelled() or instance.exception() is not None:
            self._sweep_at, self._dirty = 0.0, True

    async def _stop(self, instance_id: str) -> None:
        self._set_phase(instance_id, ReplicaPhase.STOPPING)
        reason = "its deployment was deleted" if self._state.deleting else "its deployment needs it no more"
        handle = workflow.get_external_workflow_handle_for(Instance.run, instance_workflow_id(instance_id))
        try:
            await handle.signal(Instance.stop, StopRequest(reason=reason))
        except ApplicationError:  # its workflow is over: nobody will say so any more
            await self._release(instance_id)
            await self._remove(instance_id)
            self._forget(instance_id)

    async def _sweep(self) -> None:
        if not self._state.replicas:
            return
        result = await workflow.execute_activity_method(
            PlacementActivities.sweep_instances,
            SweepInput(instance_ids=tuple(replica.instance_id for replica in self._state.replicas)),
            summary="look for instances that ended without a word",
            **options.TRANSACTION,
        )
        for instance_id in result.ended:
            await self._remove(instance_id)
            self._forget(instance_id)

    async def _release(self, instance_id: str) -> None:
        await workflow.execute_activity_method(
            PlacementActivities.release,
            ReleaseInput(instance_id=instance_id),
            summary=f"release whatever {instance_id} held",
            **options.TRANSACTION,
        )

    async def _remove(self, instance_id: str) -> None:
        await workflow.execute_activity_method(
            ProjectionActivities.remove_instance,
            RemoveInstanceInput(instance_id=instance_id),
            summary=f"remove the row of {instance_id}",
            **options.TRANSACTION,
        )

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _inspect(self, spec: DeploymentSpec) -> Wanted:
        """What the model is made of: read from the hub, or by every host that may be asked for a file."""
        question = InspectInput(source=spec.model)
        if spec.model.kind is SourceKind.HUB:
            answer = await workflow.execute_activity_method(
                EstimationActivities.inspect_hub_model,
                question,
                summary=f"read the header of {spec.model}",
                **options.INSPECT,
            )
            return Wanted(spec=spec, profile=answer.profile, files=answer.files)
        found = await inspect_on_workers(spec)
        return Wanted(spec=spec, profile=found.profile, files=found.files)

    async def _estimate(self, wanted: Wanted) -> None:
        """Refuses what no device could ever run; what does not fit now is another matter."""
        await workflow.execute_activity_method(
            EstimationActivities.estimate_model,
            EstimateInput(spec=wanted.spec, profile=wanted.profile),
            summary=f"estimate the memory of {wanted.spec.model}",
            **options.TRANSACTION,
        )

    async def _project(self, wanted: Wanted, *, deleting: bool = False) -> None:
        await workflow.execute_activity_method(
            ProjectionActivities.project_deployment,
            DeploymentProjection(
                spec=wanted.spec,
                generation=self._state.generation,
                profile=wanted.profile,
                files=wanted.files,
                deleting=deleting,
                instances_generation=self._state.instances_generation,
            ),
            summary=f"show {self._name}, generation {self._state.generation}",
            **options.TRANSACTION,
        )

    def _show(self, spec: DeploymentSpec, wanted: int) -> None:
        running = sum(replica.phase is ReplicaPhase.RUNNING for replica in self._state.replicas)
        phase = "deleting" if self._state.deleting else "running" if running >= wanted else "progressing"
        lines = [f"**{running} of {wanted}** running - `{spec.model}`, generation {self._state.generation}", ""]
        lines += [f"- `{r.instance_id}` {r.phase} (generation {r.generation})" for r in self._state.replicas]
        show_phase(phase, details="\n".join(lines))

    def _new_id(self) -> str:
        letters = "".join(workflow.random().choice(_SUFFIX_ALPHABET) for _ in range(5))
        return f"{self._name}-{letters}"

    def _change(self, **fields: Any) -> None:
        self._state = self._state.model_copy(update=fields)

    def _set_phase(self, instance_id: str, phase: ReplicaPhase) -> None:
        self._change(
            replicas=tuple(_moved_on(r, phase) if r.instance_id == instance_id else r for r in self._state.replicas)
        )
        self._dirty = True

    def _forget(self, instance_id: str) -> None:
        self._change(replicas=tuple(r for r in self._state.replicas if r.instance_id != instance_id))
        self._dirty = True


def _moved_on(replica: Replica, phase: ReplicaPhase) -> Replica:
    """A replica that was told to stop stays so, whatever it still has to say."""
    if replica.phase is ReplicaPhase.STOPPING:
        return replica
    return replica.model_copy(update={"phase": phase})
