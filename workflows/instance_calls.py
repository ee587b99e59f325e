"""What a deployment's workflow asks of its instances' workflows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from stoker.domain.naming import instance_workflow_id
    from stoker.domain.rollout import Replica
    from workflows import options
    from workflows.instance import Instance
    from workflows.types import (
        DeploymentState,
        InstanceGone,
        InstanceInput,
        ReplaceRequest,
        StopRequest,
        Wanted,
    )
    from workflows.visibility import DEPLOYMENT, PHASE

_TOGETHER = 20
"""So many instances are started, or told to stop, in one step of the workflow: each start carries the model's profile,
some ten thousand bytes, and the answer to Temporal has room for 4 MiB."""

DELETED = StopRequest(reason="its deployment was deleted", patience=options.DRAIN_TIMEOUT_SECONDS)

_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words by accident


async def few_at_a_time(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """All of them, as many at a time as one step of the workflow has room for."""
    for first in range(0, len(calls), _TOGETHER):
        await asyncio.gather(*(call() for call in calls[first : first + _TOGETHER]))


def new_instance_id(deployment: str) -> str:
    """One that nobody has yet, most likely."""
    letters = "".join(workflow.random().choice(_SUFFIX_ALPHABET) for _ in range(5))
    return f"{deployment}-{letters}"


async def start(deployment: str, replica: Replica, wanted: Wanted) -> asyncio.Future[None]:
    """Starts the replica's workflow; what is returned is done when that is over.

    Raises WorkflowAlreadyStartedError.
    """
    return await workflow.start_child_workflow(
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
        static_summary=f"{wanted.spec.model} for {deployment}",
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(DEPLOYMENT, deployment), SearchAttributePair(PHASE, "placing")]
        ),
    )


def stop_request(state: DeploymentState, instance_id: str) -> StopRequest:
    """Why the instance is to stop, and how long it may wait for its requests."""
    if state.deleting:
        return DELETED
    asked = (request.reason for request in state.replacing if request.instance_id == instance_id)
    reason = next(asked, "its deployment needs it no more")
    return StopRequest(reason=reason, patience=options.DRAIN_PATIENCE_SECONDS)


async def stop(instance_id: str, request: StopRequest) -> bool:
    """Tells it to stop. False: its workflow is over, and it will never say that it has."""
    handle = workflow.get_external_workflow_handle_for(Instance.run, instance_workflow_id(instance_id))
    try:
        await handle.signal(Instance.stop, request)
    except ApplicationError:
        return False
    return True


async def tell_gone(request: ReplaceRequest) -> None:
    """Tells whoever asked for an instance to be replaced that it is gone."""
    if request.tell:
        asker = workflow.get_external_workflow_handle(request.tell)
        with suppress(ApplicationError):  # it is over, and wants to know no more
            await asker.signal("instance_gone", InstanceGone(instance_id=request.instance_id))
