"""Deployments' workflows, as the API calls them."""

import asyncio
import time
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from api.audit import note
from api.errors import of_temporal
from api.schemas.deployments import DeploymentCreate
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.naming import CONTROL_QUEUE, SCALE_SIGNAL, SEARCH_ATTRIBUTES, deployment_workflow_id
from stoker.domain.rollout import Replica, ReplicaPhase
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from workflows.deployment import Deployment
from workflows.types import (
    ApplyInput,
    ApplyResult,
    DeleteInput,
    DeploymentInput,
    DeploymentState,
    ScaleRequest,
    WakeRequest,
    Wanted,
)

ANSWER_WITHIN = timedelta(seconds=90)
"""Longer than reading a header may take; after it, the caller is told that the control plane does not answer."""

_SIGNAL_WITHIN = timedelta(seconds=5)
_AGAIN_SECONDS = 0.2
_FAILURES = (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError, RuntimeError, TimeoutError)


async def apply(
    client: Client,
    spec: DeploymentSpec,
    *,
    remembered: DeploymentState | None = None,
    expected_generation: int | None = None,
    update_id: str | None = None,
    by: str = "",
    reason: str = "",
    known: Wanted | None = None,
) -> ApplyResult:
    """Makes `spec` what is wanted, starting the deployment's workflow if none runs. Raises ProblemError.

    `remembered`: where a workflow that has to be started begins; see `remembered`. `by`: the name of the caller's key.
    `known`: what was read of the model before, where it must not be read anew.
    """
    before = remembered.wanted.spec if remembered is not None and remembered.wanted is not None else None
    note.concerns("deployment", spec.name)
    note.changed(DeploymentCreate.of(before) if before is not None else None, DeploymentCreate.of(spec))
    wanted = ApplyInput(spec=spec, expected_generation=expected_generation, by=by, reason=reason, known=known)
    update_id = update_id or uuid.uuid4().hex
    deadline = time.monotonic() + ANSWER_WITHIN.total_seconds()
    while True:
        try:
            # The SDK repeats the call for as long as nobody takes the update, each time with the whole rpc_timeout.
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await client.execute_update_with_start_workflow(
                    Deployment.apply,
                    wanted,
                    start_workflow_operation=_start(spec.name, remembered),
                    id=update_id,
                    rpc_timeout=ANSWER_WITHIN,
                )
        except _FAILURES as error:
            if not is_start_lost(error) or time.monotonic() + _AGAIN_SECONDS > deadline:
                raise of_temporal(error) from error
        await asyncio.sleep(_AGAIN_SECONDS)


def is_start_lost(error: Exception) -> bool:
    """Whether an update with start is to be sent anew, with the same id: it is taken once, whatever came of it before.

    A busy server answers before the update was taken, and the SDK repeats the very same call. The server then refuses,
    since that call has started a workflow already (StartDeduped); or, if that has ended meanwhile, it finds none.
    """
    return isinstance(error, RPCError) and (error.status is RPCStatusCode.NOT_FOUND or "StartDeduped" in error.message)


async def delete(
    client: Client, name: str, *, remembered: DeploymentState, expected_generation: int | None = None
) -> None:
    """Begins the deployment's end, also when its workflow was terminated. Raises ProblemError."""
    note.concerns("deployment", name)
    try:
        await client.execute_update_with_start_workflow(
            Deployment.delete,
            DeleteInput(expected_generation=expected_generation),
            start_workflow_operation=_start(name, remembered),
            rpc_timeout=ANSWER_WITHIN,
        )
    except _FAILURES as error:
        raise of_temporal(error) from error


def remembered(status: DeploymentStatus | None, instances: Iterable[InstanceStatus]) -> DeploymentState | None:
    """What the rows know of a deployment: from it a workflow goes on whose predecessor was terminated in Temporal."""
    if status is None:
        return None
    replicas = (Replica(instance_id=i.instance_id, generation=i.generation, phase=_phase_of(i)) for i in instances)
    return DeploymentState(
        wanted=Wanted(spec=status.spec, profile=status.profile, files=status.files),
        generation=status.generation,
        instances_generation=status.instances_generation,
        replicas=tuple(replicas),
        deleting=status.deleting,
        scaled=status.scaled,
        by=status.by,
        reason=status.reason,
        rolled_back=status.rolled_back,
        trial_shown=status.trial is not None,
    )


_PHASES = {
    InstanceState.PENDING: ReplicaPhase.PENDING,
    InstanceState.RUNNING: ReplicaPhase.RUNNING,
    InstanceState.FAILED: ReplicaPhase.FAILED,
    InstanceState.STOPPING: ReplicaPhase.STOPPING,
    InstanceState.STOPPED: ReplicaPhase.STOPPING,
}


def _phase_of(instance: InstanceStatus) -> ReplicaPhase:
    why = instance.unplaceable
    if instance.state is InstanceState.PENDING and why is not None and not why.asks_for_room:
        return ReplicaPhase.STARTING  # as its workflow says it: nobody can make room for it
    return _PHASES.get(instance.state, ReplicaPhase.STARTING)


def recalled(database: Database, now: datetime, name: str) -> DeploymentState | None:
    """`remembered`, read from the rows. Blocks. Raises SQLAlchemyError."""
    with database.read() as session:
        instances = Instances(session, now).all(deployment=name)
        return remembered(Deployments(session, now).get(name), instances)


async def start_with_signal(
    client: Client, name: str, remembered: DeploymentState, request: WakeRequest | ScaleRequest
) -> None:
    """Has the deployment's workflow, which was terminated, go on from there, told that. Raises RPCError, RuntimeError.

    To be called with what the rows said after a signal had found no workflow: one that ends by itself removes its row
    first, and nothing that was deleted comes back.
    """
    await client.start_workflow(
        Deployment.run,
        _input(name, remembered),
        start_signal="wake" if isinstance(request, WakeRequest) else SCALE_SIGNAL,
        start_signal_args=[request],
        rpc_timeout=_SIGNAL_WITHIN,
        **_options(name),
    )


def _start(name: str, state: DeploymentState | None) -> "WithStartWorkflowOperation[Deployment, None]":
    return WithStartWorkflowOperation(Deployment.run, _input(name, state), **_options(name))


def _input(name: str, state: DeploymentState | None) -> DeploymentInput:
    return DeploymentInput(name=name, state=state or DeploymentState(), recovered=state is not None)


def _options(name: str) -> dict[str, Any]:
    return {
        "id": deployment_workflow_id(name),
        "task_queue": CONTROL_QUEUE,
        "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
        "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        "static_summary": f"deployment {name}",
        "search_attributes": TypedSearchAttributes(
            [SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_ATTRIBUTES[0]), name)]
        ),
    }
