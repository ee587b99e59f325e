"""What others see of an instance: its row, what Temporal shows of its workflow, and what its deployment is told."""

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.projection import ProjectionActivities
    from activities.types import MainReady
    from stoker.domain.deployments import InstanceState, is_transition_allowed
    from stoker.domain.naming import deployment_workflow_id
    from stoker.domain.placement.types import Placement, Unplaceable
    from stoker.domain.rollout import ReplicaPhase
    from stoker.domain.statuses import InstanceProjection
    from workflows import options
    from workflows.deployment_rows import remove_instance
    from workflows.instance_details import pending_details, state_details
    from workflows.row_writer import RowWriter
    from workflows.types import InstanceChanged, InstanceInput
    from workflows.visibility import show_phase

_REPLICA_PHASES = {
    InstanceState.PLACING: ReplicaPhase.STARTING,
    InstanceState.PENDING: ReplicaPhase.PENDING,
    InstanceState.BACKOFF: ReplicaPhase.STARTING,
    InstanceState.RUNNING: ReplicaPhase.RUNNING,
    InstanceState.FAILED: ReplicaPhase.FAILED,
    InstanceState.STOPPING: ReplicaPhase.STOPPING,
    InstanceState.STOPPED: ReplicaPhase.STOPPING,
}

_TROUBLED = (InstanceState.BACKOFF, InstanceState.FAILED)


class InstanceReport:
    """Where an instance is in its life, and everybody told of it.

    `placement`, `ready` and `failures` are the instance's to set: what it has, how its main server answers, and how
    often in a row it ended though nobody asked for it.
    """

    def __init__(self, input: InstanceInput) -> None:
        self.state = InstanceState.PLACING
        self.placement: Placement | None = None
        self.ready: MainReady | None = None
        self.failures = input.failures
        self._input = input
        self._message = ""
        self._asks_for_room = False
        self._row = RowWriter[InstanceProjection](self._write_row)

    async def enter(self, state: InstanceState, message: str, *, project: bool = True, reason: str = "") -> None:
        """Moves to `state` and shows it everywhere. `project`: in the row too."""
        if not is_transition_allowed(self.state, state):
            raise ApplicationError(f"{self.state} -> {state} is no legal transition", non_retryable=True)
        changed = state is not self.state
        self.state, self._message = state, message
        worker = self.placement.worker if self.placement is not None else ""
        details = state_details(self._input, state, message, self.placement)
        show_phase(state, worker=worker, reason=reason, details=details)
        if project:
            self._row.want(self._projection())
        if changed and state in _REPLICA_PHASES:
            await self.tell_deployment(ended=False)

    async def enter_pending(self, why: Unplaceable) -> None:
        """Waits for room from here on. The claiming transaction has written the row, with these reasons."""
        self._asks_for_room = why.asks_for_room
        reason = why.rejections[0].rule if why.rejections else ""
        await self.enter(InstanceState.PENDING, why.summary, project=False, reason=reason)
        workflow.set_current_details(pending_details(why))

    async def flush(self) -> None:
        """Returns when the row shows the latest."""
        await self._row.flush()

    async def remove(self) -> None:
        """Removes the row."""
        await remove_instance(self._input.instance_id)

    async def tell_deployment(self, *, ended: bool) -> None:
        """Tells the deployment where the instance is; `ended`: that it is over."""
        phase = _REPLICA_PHASES.get(self.state, ReplicaPhase.STARTING)
        if phase is ReplicaPhase.PENDING and not self._asks_for_room:
            phase = ReplicaPhase.STARTING  # nobody may take it: an old instance that made room would die for nothing
        deployment = workflow.get_external_workflow_handle(deployment_workflow_id(self._input.spec.name))
        changed = InstanceChanged(
            instance_id=self._input.instance_id,
            generation=self._input.generation,
            phase=phase,
            ended=ended,
            failures=self.failures,
            message=self._message if self.state in _TROUBLED else "",
        )
        try:
            await deployment.signal("instance_changed", changed)
        except ApplicationError as error:  # the deployment is gone: there is nobody to tell
            workflow.logger.warning("deployment not told of %s: %s", phase, error)

    def _projection(self) -> InstanceProjection:
        ready = self.ready if self.state is InstanceState.RUNNING else None
        loads_again = ready is not None and not ready.port
        return InstanceProjection(
            instance_id=self._input.instance_id,
            deployment=self._input.spec.name,
            generation=self._input.generation,
            incarnation=self._input.incarnation,
            state=InstanceState.STARTING if loads_again else self.state,
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
