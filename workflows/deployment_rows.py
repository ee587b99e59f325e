"""The rows and claims of a deployment and its instances, as its workflow changes them."""

from collections.abc import Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.placement import PlacementActivities
    from activities.projection import ProjectionActivities
    from activities.types import ReleaseInput, RemoveDeploymentInput, RemoveInstanceInput, SweepInput
    from stoker.domain.base import DeploymentName, InstanceId
    from stoker.domain.revisions import OnTrial
    from stoker.domain.statuses import DeploymentProjection
    from workflows import options
    from workflows.types import DeploymentState, Wanted


def projection_of(
    state: DeploymentState, wanted: Wanted, *, deleting: bool = False, with_trial: bool = True
) -> DeploymentProjection:
    """The deployment as people are to see it. `with_trial`: False only in runs that would not say when it is over."""
    trial = state.trial if with_trial else None
    return DeploymentProjection(
        spec=wanted.spec,
        generation=state.generation,
        profile=wanted.profile,
        files=wanted.files,
        deleting=deleting,
        instances_generation=state.instances_generation,
        by=state.by,
        reason=state.reason,
        rolled_back=state.rolled_back,
        scaled=state.scaled,
        trial=OnTrial(previous=trial.previous.spec, instances_generation=trial.previous_instances_generation)
        if trial is not None
        else None,
    )


async def show_deployment(projection: DeploymentProjection) -> None:
    """Writes the deployment's row."""
    await workflow.execute_activity_method(
        ProjectionActivities.project_deployment,
        projection,
        summary=f"show {projection.spec.name}, generation {projection.generation}",
        **options.TRANSACTION,
    )


async def remove_deployment(name: DeploymentName) -> None:
    """Removes the rows of the deployment and of its instances."""
    await workflow.execute_activity_method(
        ProjectionActivities.remove_deployment,
        RemoveDeploymentInput(name=name),
        summary=f"remove the rows of {name}",
        **options.TRANSACTION,
    )


async def remove_instance(instance_id: InstanceId) -> None:
    """Removes an instance's row."""
    await workflow.execute_activity_method(
        ProjectionActivities.remove_instance,
        RemoveInstanceInput(instance_id=instance_id),
        summary=f"remove the row of {instance_id}",
        **options.TRANSACTION,
    )


async def release(instance_id: InstanceId) -> None:
    """Gives back whatever the instance holds."""
    await workflow.execute_activity_method(
        PlacementActivities.release,
        ReleaseInput(instance_id=instance_id),
        summary=f"release whatever {instance_id} held",
        **options.TRANSACTION,
    )


async def find_ended(instance_ids: Sequence[InstanceId]) -> tuple[InstanceId, ...]:
    """Those that ended without a word; their claims are given back."""
    result = await workflow.execute_activity_method(
        PlacementActivities.sweep_instances,
        SweepInput(instance_ids=tuple(instance_ids)),
        summary="look for instances that ended without a word",
        **options.TRANSACTION,
    )
    return result.ended
