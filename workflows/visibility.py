"""What an SRE sees of a workflow in the Temporal UI: search attributes and current details."""

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import InstanceState
    from stoker.domain.naming import SEARCH_ATTRIBUTES

DEPLOYMENT, PHASE, REASON, WORKER = (SearchAttributeKey.for_keyword(name) for name in SEARCH_ATTRIBUTES)

INSTANCE_PHASES = {state: state.value.capitalize() for state in InstanceState}


def show_phase(phase: str, *, worker: str = "", reason: str = "", details: str = "") -> None:
    """Shows where the workflow is. An attribute that has not changed costs no event in the history."""
    wanted = {PHASE: str(phase), WORKER: worker, REASON: reason}
    current = workflow.info().typed_search_attributes
    updates: list[SearchAttributeUpdate[str]] = []
    for key, value in wanted.items():
        if (current.get(key) or "") != value:
            updates.append(key.value_set(value) if value else key.value_unset())
    if updates:
        workflow.upsert_search_attributes(updates)
    if details:
        workflow.set_current_details(details)
