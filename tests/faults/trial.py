"""One fault at a running system under load, watched until all is as before, or for as long as it may take."""

import json
import time
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from tests.faults.audit import Findings, audit
from tests.faults.load import Asked, Load, Outage, outage
from tests.faults.spread_system import SpreadSystem
from tests.faults.table import Fault, Strike

STREAK = 10  # right answers in a row that count as "answers again"
ANSWERS_WITHIN = 180.0  # seconds after the fault's last step
SETTLES_WITHIN = 90.0  # seconds after that


class NotSteadyError(Exception):
    """The system is not well before anything was done to it."""


@dataclass(frozen=True)
class Trial:
    """What one fault did."""

    fault: str
    whom: str
    seen: Outage
    restarts: int  # incarnations
    load_seconds: float  # of the engine that answers afterwards
    lost_after: int  # requests, while what was broken came back
    settled: float | None  # seconds from the fault until processes and claims were right; None: never
    findings: Findings = field(default_factory=Findings)
    trail: tuple[str, ...] = ()  # what the instance told, and when first


def steady(system: SpreadSystem, load: Load, *, seconds: float = 120.0) -> None:
    """Waits until the model answers, all workers are ready, and processes and claims are right.

    Raises NotSteadyError.
    """
    deadline = time.monotonic() + seconds
    began, found = time.monotonic(), Findings()
    while time.monotonic() < deadline:
        found = _audit(system)
        if found.clean and set(system.ready_workers()) == set(system.agents) and _streak(load, began):
            return
        time.sleep(0.5)
    raise NotSteadyError(
        f"{found}; ready: {system.ready_workers()}; {system.instance()}; {load.asked(time.monotonic() - 10)}"
    )


def try_fault(system: SpreadSystem, load: Load, fault: Fault, turn: int) -> Trial:
    """Does the fault once. Raises NotSteadyError when the system is not well before it."""
    steady(system, load)
    before = system.running() or {}
    strike = fault.strike(system, turn)
    trail = _watch(system, load, fault, strike)
    answered = time.monotonic()
    asked = load.asked(strike.at)
    seen = outage(asked, strike.at)
    _keep(system, fault, strike, asked)
    if strike.healed is not None:
        strike.healed()
    findings, settled = _settle(system, strike)
    after = system.running() or {}
    return Trial(
        fault=fault.name,
        whom=strike.whom,
        seen=seen,
        restarts=after.get("incarnation", 0) - before.get("incarnation", 0),
        load_seconds=after.get("load_seconds") or 0.0,
        lost_after=sum(one.lost for one in load.asked(answered) if one.start > answered),
        settled=settled,
        findings=findings,
        trail=trail,
    )


def _keep(system: SpreadSystem, fault: Fault, strike: Strike, asked: list[Asked]) -> None:
    """Each request by itself, in the folder of the run, for whoever wants to know more than the table says."""
    with (system.folder / "requests.jsonl").open("a") as out:
        for one in asked:
            times = {"start": round(one.start - strike.at, 2), "end": round(one.end - strike.at, 2)}
            out.write(json.dumps({"fault": fault.name} | times | {"how": one.how, "detail": one.detail}) + "\n")


def _watch(system: SpreadSystem, load: Load, fault: Fault, strike: Strike) -> tuple[str, ...]:
    """Until the model has answered well for long enough after the fault's last step, or no longer can be expected to.

    What the instance said of it meanwhile.
    """
    later = sorted(strike.later, key=lambda step: step[0])
    told: dict[str, float] = {}
    while True:
        elapsed = time.monotonic() - strike.at
        while later and later[0][0] <= elapsed:
            later.pop(0)[1]()
        instance = system.instance()
        if instance is not None:
            told.setdefault(f"{instance['state']}: {instance['message']}", elapsed)
        last = max((step[0] for step in strike.later), default=0.0)
        if not later and elapsed > last + fault.watch and _streak(load, strike.at):
            return _trail(told)
        if elapsed > last + ANSWERS_WITHIN:
            return _trail(told)
        time.sleep(0.2)


def _trail(told: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{seconds:6.1f} s  {text}" for text, seconds in told.items())


def _streak(load: Load, since: float) -> bool:
    """Whether the last requests were all answered rightly, and none of before waits for an answer."""
    asked = [one for one in load.asked(since) if one.start >= since]
    lately = asked[-STREAK:]
    oldest = load.oldest_open()
    waiting = oldest is not None and bool(lately) and oldest < lately[0].start
    return len(lately) == STREAK and not any(one.lost for one in lately) and not waiting


def _settle(system: SpreadSystem, strike: Strike) -> tuple[Findings, float | None]:
    """Waits until processes and claims are right; what is wrong when they never are."""
    deadline = time.monotonic() + SETTLES_WITHIN
    while True:
        found = _audit(system)
        if found.clean:
            return found, time.monotonic() - strike.at
        if time.monotonic() > deadline:
            return found, None
        time.sleep(0.5)


def _audit(system: SpreadSystem) -> Findings:
    try:
        return audit(system)
    except SQLAlchemyError as error:
        return Findings(missing=(f"the database: {error}",))
