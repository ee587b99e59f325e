"""How many replicas a deployment has that is scaled by demand.

The rule: as many as the requests in work and waiting fill, by the slots of each, between `min_replicas` and
`max_replicas`; more at once, fewer only when fewer have sufficed for `idle_timeout`, and none only when nothing was
asked for as long.

Whoever looks decides from what it has seen itself, so that any number may look and none must agree with another:

- A count that somebody else has raised is taken as needed at that moment; one that was lowered, as enough until then.
- As long as a first replica is on its way, nobody can have used it: it is taken as needed.
- Whoever has just begun to look takes the count that it finds as needed: it lowers nothing for `idle_timeout`. What
  it finds told counts only once the process has told again: it may be long dead, or idle for an hour.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stoker.domain.base import DeploymentName, Value
from stoker.domain.deployments import DeploymentSpec

SILENT_SECONDS = 15.0
"""A process that has requests in work says so every few seconds. One that is silent for so long is taken as dead."""


def is_autoscaled(spec: DeploymentSpec) -> bool:
    """Whether demand decides how many replicas there are."""
    return spec.min_replicas is not None or spec.max_replicas is not None


def replica_bounds(spec: DeploymentSpec) -> tuple[int, int]:
    """The fewest and the most replicas that demand may ask for. What is not given follows `replicas`."""
    least, most = spec.min_replicas, spec.max_replicas
    if least is None:
        least = min(spec.replicas, most) if most is not None else spec.replicas
    return least, max(least, spec.replicas, 1) if most is None else most


def wanted_replicas(spec: DeploymentSpec, scaled: int | None) -> int:
    """So many instances are wanted, when demand asks for `scaled`. None: it was not looked at; `replicas` it begins
    with."""
    if not is_autoscaled(spec):
        return spec.replicas
    least, most = replica_bounds(spec)
    return min(max(spec.replicas if scaled is None else scaled, least), most)


def scaled_after(before: DeploymentSpec | None, after: DeploymentSpec, scaled: int | None) -> int | None:
    """What demand asks for once `after` is wanted: as before, unless `after` itself says how many there are to be."""
    return scaled if before is not None and is_autoscaled(after) and after.replicas == before.replicas else None


class Demand(NamedTuple):
    """What is asked of one deployment, by all processes together."""

    busy: int = 0  # requests in work, waiting for a slot, or held until there is a replica
    asked: bool = False  # whether any came since the look before
    starting: bool = False  # whether its first replica is on its way


def needed(demand: Demand, slots: int) -> int:
    """Replicas that the demand fills, each with so many slots; one for what came and went between two looks."""
    return max(-(-demand.busy // slots), int(demand.asked or demand.busy > 0))


class Peak(Value):
    """So many replicas were needed at that moment, and never as many later."""

    at: float  # seconds, of the looker's clock
    replicas: int


class Outlook(Value):
    """What one looker remembers of a deployment."""

    count: int  # that was wanted at the last look
    peaks: tuple[Peak, ...] = ()  # of the last `idle_timeout`, each later and lower than the one before


def looked(before: Outlook | None, spec: DeploymentSpec, count: int, demand: Demand, now: float) -> Outlook:
    """The outlook after one more look that found `count` wanted. `now`: seconds, of a clock that only grows."""
    peaks = before.peaks if before is not None else ()
    if before is None or count > before.count or demand.starting:
        peaks = _with(peaks, Peak(at=now, replicas=count))
    elif count < before.count:
        peaks = tuple(Peak(at=peak.at, replicas=min(peak.replicas, count)) for peak in peaks)
    peaks = _with(peaks, Peak(at=now, replicas=needed(demand, spec.options.slots)))
    return Outlook(count=count, peaks=tuple(peak for peak in peaks if peak.at > now - spec.idle_timeout))


def target(outlook: Outlook, spec: DeploymentSpec) -> int:
    """So many replicas it should have now."""
    return wanted_replicas(spec, max((peak.replicas for peak in outlook.peaks), default=0))


class Rescale(Value):
    """A deployment that is to have another number of replicas."""

    deployment: DeploymentName
    seen: int  # that are wanted now
    replicas: int  # that should be
    reason: str


def reason(count: int, wanted: int, demand: Demand, spec: DeploymentSpec) -> str:
    """Why `wanted` and not `count`, for people."""
    least, most = replica_bounds(spec)
    if wanted == count:
        return f"requests in work and waiting: {demand.busy}; not one of its replicas is there"
    if not least <= count <= most:
        return f"{least} to {most} replicas are allowed"
    if wanted > count:
        return f"requests in work and waiting: {demand.busy}; slots of a replica: {spec.options.slots}"
    if wanted:
        return f"{wanted} would have sufficed for {spec.idle_timeout} s"
    return f"nothing was asked for {spec.idle_timeout} s"


def _with(peaks: tuple[Peak, ...], newest: Peak) -> tuple[Peak, ...]:
    return (*(peak for peak in peaks if peak.replicas > newest.replicas), newest)


class Told(NamedTuple):
    """What one API process last told of one deployment."""

    process: str
    deployment: DeploymentName
    busy: int
    asked: int  # requests since the process began
    beat: int  # another one whenever it tells anything


class Heard(NamedTuple):
    """The same, as a looker knows it."""

    told: Told
    at: float  # when it was new; seconds, of the looker's clock
    told_since: bool = True  # whether it was told while the looker was there


Hearings = Mapping[tuple[str, DeploymentName], Heard]


def heard(
    before: Hearings | None, told: Iterable[Told], starting: Iterable[DeploymentName], now: float
) -> tuple[Hearings, Mapping[DeploymentName, Demand]]:
    """What is known after one more look, and the demand by deployment; `starting`: whose first replica is on its way.

    `before`: of the look before, None at the first one. What the first finds was told at any time: it counts once it is
    told again, which a living process with requests in work does within a few seconds. A process that is silent for
    SILENT_SECONDS counts for nothing: what it had in work ended with it.
    """
    known: dict[tuple[str, DeploymentName], Heard] = {}
    demands = {name: Demand(starting=True) for name in starting}
    for one in told:
        key = one.process, one.deployment
        last = before.get(key) if before is not None else None
        if last is None:
            known[key] = found = Heard(one, now, told_since=before is not None)
            asked = found.told_since and one.asked > 0
        else:
            known[key] = found = last if last.told.beat == one.beat else Heard(one, now)
            asked = one.asked != last.told.asked
        busy = one.busy if found.told_since and now - found.at < SILENT_SECONDS else 0
        sum_of = demands.get(one.deployment, Demand())
        demands[one.deployment] = sum_of._replace(busy=sum_of.busy + busy, asked=sum_of.asked or asked)
    return known, demands
