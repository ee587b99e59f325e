"""Deployments' workflows, as the API calls them."""

import uuid
from collections.abc import Iterable
from datetime import timedelta

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
from temporalio.service import RPCError

from api.errors import of_temporal
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.naming import CONTROL_QUEUE, SEARCH_ATTRIBUTES, deployment_workflow_id
from stoker.domain.rollout import Replica, ReplicaPhase
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from workflows.deployment import Deployment
from workflows.types import ApplyInput, ApplyResult, DeleteInput, DeploymentInput, DeploymentState, Wanted

ANSWER_WITHIN = timedelta(seconds=90)
"""Longer than reading a header may take; after it, the caller is told that the control plane does not answer."""


async def apply(
    client: Client,
    spec: DeploymentSpec,
    *,
    remembered: DeploymentState | None = None,
    expected_generation: int | None = None,
    update_id: str | None = None,
) -> ApplyResult:
    """Makes `spec` what is wanted, starting the deployment's workflow if none runs. Raises ProblemError.

    `remembered`: where a workflow that has to be started begins; see `remembered`.
    """
    try:
        return await client.execute_update_with_start_workflow(
            Deployment.apply,
            ApplyInput(spec=spec, expected_generation=expected_generation),
            start_workflow_operation=_start(spec.name, remembered),
            id=update_id or uuid.uuid4().hex,
            rpc_timeout=ANSWER_WITHIN,
        )
    except (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError, RuntimeError) as error:
        raise of_temporal(error) from error


async def delete(
    client: Client, name: str, *, remembered: DeploymentState, expected_generation: int | None = None
) -> None:
    """Begins the deployment's end, also when its workflow was terminated. Raises ProblemError."""
    try:
        await client.execute_update_with_start_workflow(
            Deployment.delete,
            DeleteInput(expected_generation=expected_generation),
            start_workflow_operation=_start(name, remembered),
            rpc_timeout=ANSWER_WITHIN,
        )
    except (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError, RuntimeError) as error:
        raise of_temporal(error) from error


def remembered(status: DeploymentStatus | None, instances: Iterable[InstanceStatus]) -> DeploymentState | None:
    """What the rows know of a deployment: from it a workflow goes on whose predecessor was terminated in Temporal."""
    if status is None:
        return None
    replicas = (
        Replica(instance_id=i.instance_id, generation=i.generation, phase=_PHASES.get(i.state, ReplicaPhase.STARTING))
        for i in instances
    )
    return DeploymentState(
        wanted=Wanted(spec=status.spec, profile=status.profile, files=status.files),
        generation=status.generation,
        instances_generation=status.instances_generation,
        replicas=tuple(replicas),
        deleting=status.deleting,
    )


_PHASES = {
    InstanceState.PENDING: ReplicaPhase.PENDING,
    InstanceState.RUNNING: ReplicaPhase.RUNNING,
    InstanceState.FAILED: ReplicaPhase.FAILED,
    InstanceState.STOPPING: ReplicaPhase.STOPPING,
    InstanceState.STOPPED: ReplicaPhase.STOPPING,
}


def _start(name: str, state: DeploymentState | None) -> "WithStartWorkflowOperation[Deployment, None]":
    return WithStartWorkflowOperation(
        Deployment.run,
        DeploymentInput(name=name, state=state or DeploymentState(), recovered=state is not None),
        id=deployment_workflow_id(name),
        task_queue=CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=f"deployment {name}",
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_ATTRIBUTES[0]), name)]
        ),
    )
