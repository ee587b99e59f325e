"""A look at a model file on the workers' disks, for somebody who wants to know and deploys nothing."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import DeploymentSpec
    from workflows.file_inspection import inspect_on_workers, refusal_of
    from workflows.types import InspectionInput, InspectionResult


@workflow.defn
class Inspection:
    """Answers with what the workers say of the file, or fails with the code and the words of whoever refused."""

    @workflow.run
    async def run(self, input: InspectionInput) -> InspectionResult:
        """Asks every worker that is there."""
        try:
            found = await inspect_on_workers(DeploymentSpec(name="inspection", model=input.source))
        except (ActivityError, ApplicationError) as error:
            raise refusal_of(error) from error
        return InspectionResult(files=found.files, profile=found.profile)
