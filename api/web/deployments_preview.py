"""What would come of a deployment that is not made yet: what it needs, and where it would go. Nothing is claimed."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from api.chosen_devices import check_devices
from api.deps import ApiContext
from api.errors import ProblemError
from api.inspection_calls import inspect_model
from api.schemas.deployments import DeploymentCreate
from api.schemas.estimates import EstimatedModelRead, MemoryEstimateRead
from api.schemas.memory import EstimateRead
from api.schemas.placements import WhatIfRead
from api.schemas.rollouts import FieldChangeRead
from api.what_if_calls import Change, known_model, simulate_deployment
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.estimation.assessment import assess
from stoker.domain.estimation.types import EstimateRefusal
from stoker.domain.units import format_bytes

_MOST_SAVINGS = 3


class FieldChange(NamedTuple):
    """A field that would differ from what is deployed."""

    field: str
    before: str
    after: str


class FormChange(NamedTuple):
    """A change of the form that would help. `fields`: its fields and what to set them to, as JSON; empty: no field."""

    text: str
    fields: str


class Preview(NamedTuple):
    """What it needs, and where it would go."""

    model: EstimatedModelRead
    needs: EstimateRead  # of the first replica where it would go; of one that fits nowhere, on one GPU
    outcome: WhatIfRead
    helps: list[FormChange]  # where it fits: what would save most


async def preview(context: ApiContext, body: DeploymentCreate) -> Preview:
    """As if all its replicas were placed now. Of the model only the header is read. Raises ProblemError."""
    await check_devices(context, body.devices)
    spec = body.spec()
    known = await known_model(context, spec)
    files, profile = known or await inspect_model(context.temporal, context.models, spec.model)
    assessed = await context.in_thread(lambda: assess(profile, spec.options))
    if isinstance(assessed, EstimateRefusal):
        raise ProblemError("unsupported_model", assessed.message)
    estimate = MemoryEstimateRead.of(body.model, files, profile, spec.options, assessed)
    outcome = WhatIfRead.of_simulation(await simulate_deployment(context, spec, files, profile, Change()))
    if outcome.unplaceable is not None:
        helps = [FormChange(one.text, _fields(one.changes)) for one in outcome.unplaceable.suggestions]
    else:
        savings = estimate.savings[:_MOST_SAVINGS]
        helps = [
            FormChange(f"{one.change}: {format_bytes(one.saved)} less", _fields({one.option: one.value}))
            for one in savings
        ]
    placed = outcome.placements[0].estimate if outcome.placements else EstimateRead.of(assessed.estimate)
    return Preview(model=estimate.model, needs=placed, outcome=outcome, helps=helps)


def changes_in_words(changes: Iterable[FieldChangeRead]) -> list[FieldChange]:
    """What differs, as people read it."""
    return [FieldChange(one.field, _shown(one.before), _shown(one.after)) for one in changes]


def replaces_instances(before: DeploymentSpec, after: DeploymentSpec) -> bool:
    """Whether the change means new instances for old ones."""
    return not after.same_instances(before)


def _fields(changes: Mapping[str, Any]) -> str:
    """Dotted fields of a deployment as the form calls them."""
    return json.dumps({field.removeprefix("options."): value for field, value in changes.items()}) if changes else ""


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={label}" for key, label in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
