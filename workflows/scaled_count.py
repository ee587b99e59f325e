"""How many replicas demand asks for, as a deployment remembers it. Pure: a state in, a state out."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.scaling import is_autoscaled, scaled_after, wanted_replicas
    from workflows.types import DeploymentState, ScaleRequest


def to_scale(state: DeploymentState, request: ScaleRequest) -> DeploymentState:
    """Demand asks for that many. Fewer are taken only from whoever saw as many as there are now: a word that was long
    under way must not put a model to sleep that somebody has just woken."""
    if state.wanted is None or not is_autoscaled(state.wanted.spec):
        return state
    count = wanted_replicas(state.wanted.spec, state.scaled)
    if request.replicas < count != request.seen:
        return state
    return _scaled(state, state.wanted.spec, request.replicas)


def is_row_behind(state: DeploymentState, request: ScaleRequest) -> bool:
    """Whether whoever decided this read another count than there is: a late attempt may have written the row."""
    if state.wanted is None or not is_autoscaled(state.wanted.spec):
        return False
    return request.seen != wanted_replicas(state.wanted.spec, state.scaled)


def to_wake(state: DeploymentState) -> DeploymentState:
    """Somebody asks the model: it has one replica at least."""
    if state.wanted is None or not is_autoscaled(state.wanted.spec):
        return state
    return _scaled(state, state.wanted.spec, max(1, wanted_replicas(state.wanted.spec, state.scaled)))


def scaled_under(spec: DeploymentSpec, state: DeploymentState) -> int | None:
    """What demand asks for once `spec` is wanted."""
    return scaled_after(state.wanted.spec if state.wanted is not None else None, spec, state.scaled)


def _scaled(state: DeploymentState, spec: DeploymentSpec, replicas: int) -> DeploymentState:
    return state.model_copy(update={"scaled": wanted_replicas(spec, replicas)})
