"""What a deployment must know of its model before it is accepted: its files, its header, and that it can run at all."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.estimation import EstimationActivities
    from activities.types import EstimateInput, InspectInput
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.models import SourceKind
    from workflows import options
    from workflows.file_inspection import inspect_on_workers
    from workflows.types import Wanted


async def inspect_model(spec: DeploymentSpec) -> Wanted:
    """What the model is made of: read from the hub, or by every host that may be asked for a file.

    Raises ActivityError and ApplicationError; see `file_inspection.refusal_of`.
    """
    if spec.model.kind is SourceKind.HUB:
        answer = await workflow.execute_activity_method(
            EstimationActivities.inspect_hub_model,
            InspectInput(source=spec.model),
            summary=f"read the header of {spec.model}",
            **options.INSPECT,
        )
        return Wanted(spec=spec, profile=answer.profile, files=answer.files)
    found = await inspect_on_workers(spec)
    return Wanted(spec=spec, profile=found.profile, files=found.files)


async def check_estimate(wanted: Wanted) -> None:
    """Refuses, by ActivityError, what no device could ever run; what does not fit now is another matter."""
    await workflow.execute_activity_method(
        EstimationActivities.estimate_model,
        EstimateInput(spec=wanted.spec, profile=wanted.profile),
        summary=f"estimate the memory of {wanted.spec.model}",
        **options.TRANSACTION,
    )
