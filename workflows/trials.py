"""What a change, and its failure, make of a deployment's state. Pure: a state in, a state out."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from stoker.domain.deployments import DeploymentSpec
    from stoker.domain.models import ModelFiles
    from stoker.domain.revisions import RolledBack
    from stoker.domain.rollback import time_left, time_passes, waiting_left, waits_in_vain, why_give_up
    from stoker.domain.rollout import ReplicaPhase
    from workflows.types import ApplyInput, DeploymentState, Trial, Wanted


_SCALING = ("replicas", "min_replicas", "max_replicas")
"""They must agree with one another: what changes one of them says what all are to be."""


def after_change(
    state: DeploymentState,
    wanted: Wanted,
    input: ApplyInput,
    *,
    files: ModelFiles | None = None,
    together: bool = True,
) -> DeploymentState:
    """The next generation: `wanted`, asked for by `input`, with these `files` and no others (None: whichever they are).

    `together`: False only for what older runs decided.

    Where its instances differ from those that ran, it is on trial. Where they are those that a trial was to replace,
    that is over and they stay.
    """
    old, generation, trial = state.wanted, state.generation + 1, state.trial
    next_ = {"wanted": wanted, "generation": generation, "by": input.by, "reason": input.reason, "rolled_back": None}
    if old is not None and _answers(old, wanted.spec, files):
        kept = _following(trial, old, wanted, together) if trial is not None else None
        return state.model_copy(update={**next_, "trial": kept})
    if trial is not None and _answers(trial.previous, wanted.spec, files):
        again = {
            "wanted": trial.previous.model_copy(update={"spec": wanted.spec}),
            "instances_generation": trial.previous_instances_generation,
            "trial": None,
        }
        return state.model_copy(update={**next_, **again})
    if old is not None and _has_run(state):
        trial = Trial(previous=old, previous_instances_generation=state.instances_generation)
    elif trial is not None:  # the one before this never ran: what ran before them both is what counts
        trial = Trial(
            previous=trial.previous,
            previous_instances_generation=trial.previous_instances_generation,
            made_room=trial.made_room,
        )
    return state.model_copy(update={**next_, "instances_generation": generation, "trial": trial})


def is_wanted_already(state: DeploymentState, input: ApplyInput, files: ModelFiles | None) -> bool:
    """Whether the spec, with these `files` (None: whichever they are), is what is wanted."""
    old = state.wanted
    return old is not None and old.spec == input.spec and (files is None or files == old.files)


def known_model(state: DeploymentState, input: ApplyInput, *, known_first: bool = True) -> Wanted | None:
    """The spec with what was read of its model before; None: its model must be read.

    `known_first`: what came with the input is what is asked for; False only for what older runs decided.
    """
    trial = state.trial
    here = (state.wanted, trial.previous if trial is not None else None)
    for one in (input.known, *here) if known_first else (*here, input.known):
        if one is not None and one.spec.model == input.spec.model:
            return one.model_copy(update={"spec": input.spec})
    return None


def timed(state: DeploymentState, now: float) -> DeploymentState:
    """The state with its trial's time running, or standing still. `now`: Unix seconds."""
    trial = state.trial
    if trial is None:
        return state
    changed: dict[str, float | None] = {}
    if (trial.since is not None) != time_passes(state.instances_generation, state.replicas):
        changed |= {"seconds": _seconds(trial, now), "since": now if trial.since is None else None}
    waits = trial.made_room and waits_in_vain(state.instances_generation, state.replicas)
    if (trial.waits_since is not None) != waits:
        changed |= {"waited": _waited(trial, now), "waits_since": now if waits else None}
    return state.model_copy(update={"trial": trial.model_copy(update=changed)}) if changed else state


def with_room_made(state: DeploymentState) -> DeploymentState:
    """One that ran stops for the generation on trial: from here on that may not wait for room for ever."""
    if state.trial is None:
        return state
    return state.model_copy(update={"trial": state.trial.model_copy(update={"made_room": True})})


def trial_ends(state: DeploymentState) -> float:
    """When the trial is over by its time alone, in Unix seconds; infinity: never, as things are."""
    trial = state.trial
    if trial is None:
        return float("inf")
    return min(
        trial.since + time_left(trial.seconds) if trial.since is not None else float("inf"),
        trial.waits_since + waiting_left(trial.waited) if trial.waits_since is not None else float("inf"),
    )


def failure_of(state: DeploymentState, now: float) -> str:
    """Why the generation on trial is given up; empty: it is not, or none is on trial."""
    if state.trial is None or state.deleting:
        return ""
    waited = _waited(state.trial, now) if state.trial.waits_since is not None else 0.0
    return why_give_up(state.instances_generation, state.replicas, _seconds(state.trial, now), waited)


def rolled_back(state: DeploymentState, trial: Trial, reason: str) -> DeploymentState:
    """The next generation: what ran before the trial, and those of its instances that are left stay."""
    return state.model_copy(
        update={
            "wanted": trial.previous,
            "generation": state.generation + 1,
            "instances_generation": trial.previous_instances_generation,
            "trial": None,
            "by": "",
            "reason": f"generation {state.generation} was rolled back: {reason}",
            "rolled_back": RolledBack(generation=state.generation, reason=reason),
        }
    )


def _answers(one: Wanted, spec: DeploymentSpec, files: ModelFiles | None) -> bool:
    """Whether instances made of `one` answer `spec`, with these `files` (None: whichever they are)."""
    return one.spec.same_instances(spec) and (files is None or files == one.files)


def _has_run(state: DeploymentState) -> bool:
    """Whether an instance of the current kind has run. One that runs says so too: older states do not remember."""
    return state.ran == state.instances_generation or any(
        one.generation == state.instances_generation and one.phase is ReplicaPhase.RUNNING for one in state.replicas
    )


def _following(trial: Trial, old: Wanted, new: Wanted, together: bool) -> Trial:
    """The trial, after a change that its instances need not know of: it is to outlast a roll-back."""
    before, after = old.spec, new.spec
    changed = {field: value for field, value in after if getattr(before, field) != value}
    if together and not changed.keys().isdisjoint(_SCALING):
        changed |= {field: getattr(after, field) for field in _SCALING}
    previous = trial.previous.spec.model_copy(update=changed)
    if together:
        previous = DeploymentSpec.model_validate(previous.model_dump())
    return trial.model_copy(update={"previous": trial.previous.model_copy(update={"spec": previous})})


def _seconds(trial: Trial, now: float) -> float:
    return trial.seconds + (now - trial.since if trial.since is not None else 0.0)


def _waited(trial: Trial, now: float) -> float:
    return trial.waited + (now - trial.waits_since if trial.waits_since is not None else 0.0)
