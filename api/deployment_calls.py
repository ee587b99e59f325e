"""Deployments' workflows, as the API calls them."""

import uuid
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
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.naming import CONTROL_QUEUE, SEARCH_ATTRIBUTES, deployment_workflow_id
from workflows.deployment import Deployment
from workflows.types import ApplyInput, ApplyResult, DeleteInput, DeploymentInput

ANSWER_WITHIN = timedelta(seconds=90)
"""Longer than reading a header may take; after it, the caller is told that the control plane does not answer."""


async def apply(
    client: Client, spec: DeploymentSpec, *, expected_generation: int | None = None, update_id: str | None = None
) -> ApplyResult:
    """Makes `spec` what is wanted, starting the deployment's workflow if there is none. Raises ProblemError."""
    start = WithStartWorkflowOperation(
        Deployment.run,
        DeploymentInput(name=spec.name),
        id=deployment_workflow_id(spec.name),
        task_queue=CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=f"deployment {spec.name}: {spec.model}",
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_ATTRIBUTES[0]), spec.name)]
        ),
    )
    try:
        return await client.execute_update_with_start_workflow(
            Deployment.apply,
            ApplyInput(spec=spec, expected_generation=expected_generation),
            start_workflow_operation=start,
            id=update_id or uuid.uuid4().hex,
            rpc_timeout=ANSWER_WITHIN,
        )
    except (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError, RuntimeError) as error:
        raise of_temporal(error) from error


async def delete(client: Client, name: str, *, expected_generation: int | None = None) -> None:
    """Begins the deployment's end. Raises ProblemError."""
    handle = client.get_workflow_handle_for(Deployment.run, deployment_workflow_id(name))
    try:
        await handle.execute_update(
            Deployment.delete, DeleteInput(expected_generation=expected_generation), rpc_timeout=ANSWER_WITHIN
        )
    except (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError, RPCError, RuntimeError) as error:
        raise of_temporal(error) from error
